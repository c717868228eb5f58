"""DeepSpeed's configuration for a training. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith_stages.train.settings import Precision, Settings

_NEVER = 10**12

_LAYOUT: Mapping[int, Mapping[str, Any]] = {2: {"round_robin_gradients": False}, 3: {"sub_group_size": 10**9}}
"""By the stage of ZeRO: what decides where each weight has its place in the optimizer's state, and is said even where
the job does not, lest a version of DeepSpeed have another default. The first deals the weights out to the ranks in
another order, the second groups them. Buckets, thresholds, offload and groups of ranks (hpZ) leave them where they are.
"""


def deepspeed_config(settings: Settings) -> dict[str, Any]:
    """Return DeepSpeed's JSON configuration.

    "auto" values are filled in by transformers from the model's hidden size. No optimizer is named, so transformers
    makes PyTorch's AdamW and keeps weight decay off norms and biases: an optimizer named here would decay every
    weight, and DeepSpeed's own are compiled on first use, where images have no compiler.
    """
    config = {
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.optimization.max_grad_norm,
        "bf16": {"enabled": settings.precision is Precision.BF16},
        "fp16": {"enabled": settings.precision is Precision.FP16},
        "zero_optimization": _zero(settings),
        "steps_per_print": _NEVER,
        # PyTorch's AdamW takes the step on the processor, too: DeepSpeed's own would have to be compiled there.
        "zero_force_ds_cpu_optimizer": False,
    }
    return _merged(config, settings.deepspeed)


def state_layout(settings: Settings) -> dict[str, Any]:
    """Return what the places in the optimizer's state depend on, besides the stage of ZeRO and the number of ranks.

    DeepSpeed loads that state by position: under another value a weight would get what is another one's.
    """
    zero = deepspeed_config(settings)["zero_optimization"]
    alone = settings.world_size == 1 and settings.zero_stage == 2  # round robin with itself
    return {} if alone else {name: zero[name] for name in _LAYOUT.get(settings.zero_stage, {})}


def _zero(settings: Settings) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": _stage(settings), **_LAYOUT.get(settings.zero_stage, {})}
    if settings.zero_stage > 0:
        zero["overlap_comm"] = not settings.on_cpu  # on CPU communication and computation share the cores
        zero["reduce_bucket_size"] = "auto"
    if settings.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = "auto"
        zero["stage3_param_persistence_threshold"] = "auto"
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if settings.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return zero


def _stage(settings: Settings) -> int:
    """Return the stage of ZeRO that DeepSpeed is told.

    Stage 2 shares gradients out as they come. A process that is alone keeps them all, and on the processor only the
    copying is left of it, a tenth of a small model's step: stage 1, which takes them up at the end of the step, has
    the same state in the same files.
    """
    alone = settings.on_cpu and settings.world_size == 1
    return 1 if alone and settings.zero_stage == 2 else settings.zero_stage


def _merged(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with what is given, object by object."""
    merged = dict(config)
    for name, value in given.items():
        known = merged.get(name)
        merged[name] = _merged(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
    return merged
