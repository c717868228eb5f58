"""Faster kernels that are used where they are there: FlashAttention and Liger, on GPUs alone.

Neither changes what is learnt but for rounding, so no key knows of them. The report does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import functional
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from tunesmith_stages.train.settings import Precision, Settings

log = logging.getLogger(__name__)

_Kernel = Callable[[torch.Tensor], torch.Tensor]

KERNELS = {"flash_attention_2": "flash-attn", "flash_attention_3": "flash-attn-3", "liger": "liger-kernel"}
"""Kernels, and the packages that bring them."""

_AMPERE, _HOPPER = 8, 9
"""Generations of GPUs, by the first number of their compute capability: FlashAttention 2 needs the former, 3 is made
for the latter (https://github.com/Dao-AILab/flash-attention#installation-and-features)."""


def use_kernels(model: Any, settings: Settings) -> None:
    """Give a model that was just loaded, and has no adapter yet, the fastest kernels that it can take on a GPU."""
    if settings.on_cpu:
        return
    if settings.precision is not Precision.FP32:  # FlashAttention has 16 bits alone
        _use_flash_attention(model)
    _use_liger(model)


def used_kernels(model: Any) -> list[str]:
    """Return what a model computes with: transformers' name of the attention, and ``liger``."""
    attention = str(getattr(model.config, "_attn_implementation", None) or "unknown")
    return [attention, *(["liger"] if getattr(model, _MARK, False) else [])]


def is_flash(model: Any) -> bool:
    """Return whether the model's attention is FlashAttention's."""
    return used_kernels(model)[0].startswith("flash_attention")


def _use_flash_attention(model: Any) -> None:
    """Take the newest FlashAttention that is installed and made for this GPU; stay with PyTorch's if there is none."""
    generation = torch.cuda.get_device_capability()[0]
    wanted = []
    if generation == _HOPPER and is_flash_attn_3_available():
        wanted.append("flash_attention_3")
    if generation >= _AMPERE and is_flash_attn_2_available():
        wanted.append("flash_attention_2")
    for name in wanted:
        try:
            model.set_attn_implementation(name)
        except (ImportError, ValueError) as error:  # the architecture cannot, or what is installed is broken
            log.warning("%s is not used: %s", name, error)
            continue
        if getattr(model.config, "_attn_implementation", None) == name:
            return


_MARK = "_tunesmith_liger"
_ACTIVATIONS = {"swiglu": ("silu", "swish"), "geglu": ("gelu_pytorch_tanh",)}
"""The activation that a kernel of Liger computes, whatever the model's configuration says."""


def _use_liger(model: Any) -> None:
    """Take Liger's kernels, if it is installed and knows the architecture.

    Its loss is left out: :mod:`.head_loss` saves the same memory for every architecture, sums up the weight's gradient
    in float32, and takes labelled tokens alone.
    """
    if find_spec("liger_kernel") is None:
        return
    try:
        from liger_kernel.transformers.monkey_patch import (
            MODEL_TYPE_TO_APPLY_LIGER_FN,
            _apply_liger_kernel_to_instance,
        )

        if model.config.model_type in MODEL_TYPE_TO_APPLY_LIGER_FN:
            _prove_liger(torch.device("cuda"))
            losses = ("cross_entropy", "fused_linear_cross_entropy")
            left_out = dict.fromkeys((*losses, *_other_layers(model.config)), False)
            _apply_liger_kernel_to_instance(model=model, **left_out)
            setattr(model, _MARK, True)
    except Exception as error:  # noqa: BLE001 - no compiler, no such GPU, another transformers: it trains without
        log.warning("liger-kernel is not used: %s: %s", type(error).__name__, error)


def _prove_liger(device: torch.device) -> None:
    """Compile two of Liger's kernels and compare them, forwards and backwards, with PyTorch.

    Raises:
        ValueError: they give something else. Whatever else they raise: they do not work here.
    """
    from liger_kernel.transformers.rms_norm import LigerRMSNorm
    from liger_kernel.transformers.swiglu import LigerSiLUMulFunction

    norm = LigerRMSNorm(64).to(device)
    pairs: tuple[tuple[_Kernel, _Kernel], ...] = (
        (norm, lambda x: functional.rms_norm(x, (64,), norm.weight, 1e-6)),
        (lambda x: LigerSiLUMulFunction.apply(x, x.cos()), lambda x: functional.silu(x) * x.cos()),
    )
    for fast, plain in pairs:
        (out, slope), (out_of_plain, slope_of_plain) = (_both_ways(kernel, device) for kernel in (fast, plain))
        if not (torch.allclose(out, out_of_plain, atol=1e-3) and torch.allclose(slope, slope_of_plain, atol=1e-3)):
            raise ValueError("its kernels give other numbers than PyTorch on this GPU")


def _both_ways(kernel: _Kernel, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a kernel makes of some numbers, and the gradient of half its square."""
    given = torch.linspace(-3, 3, 4 * 64, device=device).reshape(4, 64).requires_grad_()
    out = kernel(given)
    out.square().sum().div(2).backward()
    assert given.grad is not None  # noqa: S101 - for mypy
    return out.detach(), given.grad


def _other_layers(config: Any) -> list[str]:
    """Return the kernels of Liger that would compute something else than the model's layers do."""
    text = config.get_text_config()
    activation = getattr(text, "hidden_activation", None) or getattr(text, "hidden_act", None)
    mixed = any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    return [kernel for kernel, known in _ACTIVATIONS.items() if mixed or activation not in known]
