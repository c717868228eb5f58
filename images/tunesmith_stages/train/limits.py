"""When a training is stopped before its end. Pure: settings are read where torch is not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EarlyStopping:
    """When a training that no longer gets better is stopped."""

    patience: int
    """Evaluations without an improvement, at which it stops."""
    min_delta: float
    """By so much at least must the loss fall to be an improvement."""


@dataclass(frozen=True)
class Limits:
    """What must not happen."""

    final_loss: float | None = None
    """The last reported loss may be so high."""
    spike: float | None = None
    """A reported loss may be so many times the median of those before."""
