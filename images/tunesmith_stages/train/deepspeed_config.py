"""DeepSpeed's configuration for a training. Pure."""

from __future__ import annotations

from typing import Any

from tunesmith_stages.train.settings import Precision, Settings

_NEVER = 10**12


def deepspeed_config(settings: Settings) -> dict[str, Any]:
    """Return DeepSpeed's JSON configuration.

    "auto" values are filled in by transformers from the model's hidden size. No optimizer is named, so transformers
    makes PyTorch's AdamW and keeps weight decay off norms and biases: an optimizer named here would decay every
    weight, and DeepSpeed's own are compiled on first use, where images have no compiler.
    """
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": settings.precision is Precision.BF16},
        "fp16": {"enabled": settings.precision is Precision.FP16},
        "zero_optimization": _zero(settings),
        "steps_per_print": _NEVER,
    }


def _zero(settings: Settings) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.zero_stage > 0:
        zero["overlap_comm"] = not settings.on_cpu  # on CPU communication and computation share the cores
        zero["reduce_bucket_size"] = "auto"
    if settings.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = "auto"
        zero["stage3_param_persistence_threshold"] = "auto"
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return zero
