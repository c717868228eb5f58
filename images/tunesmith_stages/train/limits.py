"""When a training is stopped before its end, and how much it makes at once. Pure: it is read where torch is not."""

from __future__ import annotations

from dataclasses import dataclass

LOGITS_AT_ONCE = 2**27
"""Logits that are made at once where the loss is taken: so many that a matrix product is worth its start, and that the
gradient of the output layer is not summed up from too many parts."""


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
