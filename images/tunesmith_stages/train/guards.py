"""Ends a training that goes wrong, before it costs more.

Every rank is given the same figures at the same step (they are gathered), so every rank ends there, and none waits for
another. What no rank can see, that one of them hangs, the parent sees (:mod:`.parent`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.limits import Limits

_RECENT = 20
"""Reported losses that one is compared with."""
_FEWEST = 5
"""Of fewer nothing is concluded: the first losses fall fast."""


class Guards(TrainerCallback):
    """Looks at every figure that is reported."""

    def __init__(self, limits: Limits, learning_rate: float) -> None:
        self._limits = limits
        self._rate = learning_rate

    def on_step_end(self, _args: Any, _state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have the loss reported before an evaluation or a checkpoint, and at the end, whatever `loggingSteps` is.

        So no checkpoint holds a step whose loss nobody has looked at, and a short training has a last loss.
        """
        if control.should_evaluate or control.should_save or control.should_training_stop:
            control.should_log = True

    def on_log(
        self, _args: Any, state: TrainerState, _control: TrainerControl, logs: Mapping[str, float], **_: Any
    ) -> None:
        """Look at the figures that were reported just now.

        Raises:
            StageError: a loss is no number, or has jumped.
        """
        for name, words in (("loss", "loss"), ("eval_loss", "loss on held-out rows")):
            if name in logs and not math.isfinite(logs[name]):
                raise self.not_finite(words, logs[name], state.global_step)
        if "loss" in logs and self._limits.spike is not None:
            before = [event["loss"] for event in state.log_history if "loss" in event][:-1]
            self._check_spike(logs["loss"], before[-_RECENT:], state.global_step, self._limits.spike)

    def not_finite(self, words: str, loss: float, step: int) -> StageError:
        """Return what it means that a loss is no number."""
        return StageError(
            ExitCode.GATE_FAILED,
            f"the {words} was {loss} at step {step}: the training has diverged",
            reason="LossNotFinite",
            hint=f"Lower the learning rate (now {self._rate:g}), warm up longer, or train in BF16 or FP32. "
            "Checkpoints that were saved before are good.",
        )

    def _check_spike(self, loss: float, before: Sequence[float], step: int, factor: float) -> None:
        if len(before) < _FEWEST or loss <= factor * (usual := statistics.median(before)):
            return
        raise StageError(
            ExitCode.GATE_FAILED,
            f"the loss jumped to {loss:.4g} at step {step}; it was about {usual:.4g} before, and "
            f"`guards.lossSpike` allows {factor:g} times that",
            reason="LossSpike",
            hint=f"Lower the learning rate (now {self._rate:g}) or `maxGradNorm`, look for odd rows, or raise "
            "`guards.lossSpike`.",
        )

    def check_final(self, loss: float) -> None:
        """Check the last loss that was reported.

        Raises:
            StageError: it is no number, or too high.
        """
        limit = self._limits.final_loss
        if limit is not None and loss > limit:
            raise StageError(
                ExitCode.GATE_FAILED,
                f"the loss was {loss:.4g} at the end of the training; `guards.maxFinalLoss` is {limit:g}",
                reason="FinalLossTooHigh",
                hint="Train longer, raise the learning rate or LoRA's rank, look at the data, or raise "
                "`guards.maxFinalLoss`.",
            )
