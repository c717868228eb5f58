"""Stops a training that no longer gets better, and goes back to where it was best.

What is best follows from the losses on held-out rows, which are in every checkpoint: a training that goes on from one
comes to the same conclusions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from tunesmith_stages.train.limits import EarlyStopping


def evaluations(state: TrainerState) -> list[tuple[int, float]]:
    """Return the step and the loss of every evaluation so far."""
    return [(int(event["step"]), float(event["eval_loss"])) for event in state.log_history if "eval_loss" in event]


def best_step(measured: Sequence[tuple[int, float]]) -> int | None:
    """Return the step with the lowest loss, the first of equals; None: nothing was measured."""
    return min(measured, key=lambda pair: pair[1])[0] if measured else None


def is_over(measured: Sequence[tuple[int, float]], rule: EarlyStopping) -> bool:
    """Return whether the training is to stop."""
    best, since = float("inf"), 0
    for _, loss in measured:
        if loss < best - rule.min_delta:
            best, since = loss, 0
        else:
            since += 1
    return since >= rule.patience


class StopEarly(TrainerCallback):
    """Stops the training by :class:`EarlyStopping`."""

    def __init__(self, rule: EarlyStopping, tell: Callable[[str], None]) -> None:
        self._rule = rule
        self._tell = tell

    def on_train_begin(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop at once, if the training was stopped where it goes on from."""
        control.should_training_stop = is_over(evaluations(state), self._rule)

    def on_evaluate(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop, if it is time."""
        measured = evaluations(state)
        if is_over(measured, self._rule):
            control.should_training_stop = True
            self._tell(
                f"stopped early after step {state.global_step}: the loss on held-out rows did not improve in "
                f"{self._rule.patience} evaluations"
            )


class SaveBest(TrainerCallback):
    """Has a checkpoint saved where the loss on held-out rows is lower than ever before."""

    def on_evaluate(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have it saved, if this is the best."""
        if best_step(evaluations(state)) == state.global_step:
            control.should_save = True
