"""How ranks that are asked to end do so: all after the same step, with a checkpoint if there is time for one.

Nodes are asked to end at moments of their own, each by its stage program (:meth:`.exchange.Exchange.ask_to_end`). A
rank that ended by itself would leave the others waiting for it, and a checkpoint needs all of them. So they agree
after every step, and after every batch of an evaluation, which can take much longer than a step. An evaluation that is
left, or due and not begun, is made up for by who goes on (:meth:`.trainer.FineTuner.catch_up`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState

from tunesmith_stages.program import InterruptedStage
from tunesmith_stages.train.exchange import Exchange


class EvaluationLeft(Exception):  # noqa: N818 - no error
    """The ranks are asked to end: all of them leave the evaluation, after the same batch."""


class EndTogether(TrainerCallback):
    """Ends the training after the first step at which a rank of any node is asked to."""

    def __init__(
        self, exchange: Exchange, node: int, device: torch.device, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._exchange = exchange
        self._node = node
        self._device = device
        self._clock = clock
        self._mark = 0.0
        self._save = 0.0  # seconds that the longest took
        self._saved = 0  # step of the newest checkpoint

    def check(self) -> None:
        """See whether to go on; every rank must call this.

        Raises:
            InterruptedStage: a rank is asked to end. Every rank has then done all that it began before.
        """
        if not math.isinf(self._agree()[0]):
            raise InterruptedStage("the ranks were asked to end")

    def _agree(self) -> tuple[float, float]:
        """Return the same to every rank: seconds left, and those of the longest save of all ranks."""
        own = (self._exchange.seconds_left(self._node), -self._save)
        agreed = torch.tensor(own, dtype=torch.float64, device=self._device)
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        left, save = agreed.tolist()
        return left, -save

    def on_train_begin(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Note which step there is a checkpoint of: the one that it goes on from."""
        self._saved = state.global_step

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have a checkpoint saved and the training stopped, if anybody is asked to end.

        How long a save takes is known from those before; the first one is tried.
        """
        if self._ends(state, control):
            control.should_log = control.should_save

    def on_prediction_step(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Do the same after a batch of an evaluation.

        Raises:
            EvaluationLeft: somebody is asked to end. Every rank raises it.
        """
        if self._ends(state, control):
            raise EvaluationLeft

    def _ends(self, state: TrainerState, control: TrainerControl) -> bool:
        """Return whether anybody is asked to end; then say so in `control`, and whether to save before."""
        self._mark = self._clock()
        left, save = self._agree()
        if math.isinf(left):
            return False
        saved = self._saved == state.global_step
        control.should_training_stop = True
        control.should_evaluate = False
        control.should_save = not saved and save < left
        if state.is_world_process_zero:
            self._exchange.tell({"note": _last_words(state.global_step, save, left, saved=saved)})
        return True

    def on_evaluate(self, _args: Any, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Note when the evaluation ended."""
        self._mark = self._clock()

    def on_save(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Note how long the save took."""
        self._save = max(self._save, self._clock() - self._mark)
        self._saved = state.global_step


def _last_words(step: int, save: float, left: float, *, saved: bool) -> str:
    if saved:
        return f"asked to end: there is a checkpoint of step {step} already"
    if save < left:
        return f"asked to end: saving a checkpoint after step {step}"
    return f"asked to end: no checkpoint after step {step}, for it takes {save:.0f} s and {left:.0f} s are left"
