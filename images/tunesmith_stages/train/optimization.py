"""How the weights are changed in a step: optimizer, learning rate and noise, as typed values. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCHEDULES: Mapping[str, str] = {
    "Cosine": "cosine",
    "CosineWithMinLR": "cosine_with_min_lr",
    "CosineWithRestarts": "cosine_with_restarts",
    "Linear": "linear",
    "Polynomial": "polynomial",
    "InverseSqrt": "inverse_sqrt",
    "WarmupStableDecay": "warmup_stable_decay",
    "Constant": "constant_with_warmup",  # the same as "constant" without a warm-up
}
"""Learning rate schedules of the API and the names that transformers gives them."""

_OPTIONS: Mapping[str, tuple[str, str, str]] = {
    "CosineWithMinLR": ("minLrRatio", "min_lr_rate", "0.1"),
    "CosineWithRestarts": ("cycles", "num_cycles", "2"),
    "Polynomial": ("power", "power", "1"),
}
"""The option that a schedule has: its name in the API, the one that transformers gives it, and its default."""


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes."""

    name: str
    """transformers' name."""
    options: Mapping[str, Any]
    """What transformers takes besides for this one."""
    warmup: float
    """Steps over which it rises; below 1: their share of all steps."""
    decay: float | None = None
    """Share of all steps over which it falls at the end, where it is constant before."""

    def options_for(self, steps: int) -> dict[str, Any]:
        """Return what transformers takes besides, for a training of so many steps.

        It does not begin to fall before it has risen: transformers would jump from one to the other.
        """
        if self.decay is None:
            return dict(self.options)
        rise = int(self.warmup) if self.warmup >= 1 else math.ceil(self.warmup * steps)  # as transformers reckons
        return {**self.options, "num_decay_steps": max(1, min(round(self.decay * steps), steps - rise))}


@dataclass(frozen=True)
class Optimization:
    """AdamW (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101) and what goes with it."""

    learning_rate: float
    schedule: Schedule
    weight_decay: float
    max_grad_norm: float
    betas: tuple[float, float]
    epsilon: float
    neftune_alpha: float | None
    """Noise on the embeddings of training rows: NEFTune (Jain et al., 2023, https://arxiv.org/abs/2310.05914)."""
    plus_ratio: float | None
    """So many times as high is the learning rate of the adapter's B: LoRA+ (Hayou et al., 2024,
    https://arxiv.org/abs/2402.12354)."""


def read_optimization(params: Mapping[str, Any]) -> Optimization:
    """Return what the keyed parameters of `train` say.

    Raises:
        KeyError: a field is missing.
        ValueError: a value is not usable.
    """
    adam = params.get("adam") or {}
    neftune, plus = params.get("neftuneNoiseAlpha"), (params["lora"] or {}).get("plusLrRatio")
    return Optimization(
        learning_rate=float(params["learningRate"]),
        schedule=_read_schedule(params),
        weight_decay=float(params["weightDecay"]),
        max_grad_norm=float(params["maxGradNorm"]),
        betas=(float(adam.get("beta1", 0.9)), float(adam.get("beta2", 0.999))),
        epsilon=float(adam.get("epsilon", 1e-8)),
        neftune_alpha=None if neftune is None else float(neftune),
        plus_ratio=None if plus is None else float(plus),
    )


def _read_schedule(params: Mapping[str, Any]) -> Schedule:
    name, given = params["lrSchedule"], params.get("lrScheduleOptions") or {}
    if name not in SCHEDULES:
        raise ValueError(f"`lrSchedule` must be one of {', '.join(SCHEDULES)}, got {name!r}")
    options: dict[str, float] = {"lr_end": 0.0} if name == "Polynomial" else {}
    if name in _OPTIONS:
        ours, theirs, default = _OPTIONS[name]
        options[theirs] = float(given.get(ours) or default)
    ratio = params.get("warmupRatio")
    decay = float(given.get("decayRatio") or "0.1") if name == "WarmupStableDecay" else None
    return Schedule(SCHEDULES[name], options, float(ratio) if ratio else float(params["warmupSteps"]), decay)
