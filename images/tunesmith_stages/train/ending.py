"""How ranks that are asked to end do so: all after the same step, with a checkpoint if there is time for one.

Nodes are asked to end at moments of their own, each by its stage program (:meth:`.exchange.Exchange.ask_to_end`). A
rank that ended by itself would leave the others waiting for it, and a checkpoint needs all of them. So they agree
after every step.
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
        self._evaluation = 0.0  # seconds that the longest took
        self._save = 0.0

    def check(self) -> None:
        """See whether to go on; every rank must call this.

        Raises:
            InterruptedStage: a rank is asked to end. Every rank has then done all that it began before.
        """
        if not math.isinf(self._agree()[0]):
            raise InterruptedStage("the ranks were asked to end")

    def _agree(self) -> tuple[float, float, float]:
        """Return the same to every rank: seconds left, and those of the longest evaluation and save of all ranks."""
        own = (self._exchange.seconds_left(self._node), -self._evaluation, -self._save)
        agreed = torch.tensor(own, dtype=torch.float64, device=self._device)
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        left, evaluation, save = agreed.tolist()
        return left, -evaluation, -save

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have a checkpoint saved and the training stopped, if anybody is asked to end.

        A checkpoint holds the record up to its step, so an evaluation that is due comes first. How long either takes is
        known from those before; the first one is tried.
        """
        self._mark = self._clock()
        left, evaluation, save = self._agree()
        if math.isinf(left):
            return
        needed = save + (evaluation if control.should_evaluate else 0.0)
        fits = needed < left
        control.should_training_stop = True
        control.should_log = control.should_save = fits
        control.should_evaluate = control.should_evaluate and fits
        if state.is_world_process_zero:
            self._exchange.tell({"note": _last_words(state.global_step, needed, left, fits=fits)})

    def on_evaluate(self, _args: Any, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Note how long the evaluation took."""
        now = self._clock()
        self._evaluation = max(self._evaluation, now - self._mark)
        self._mark = now

    def on_save(self, _args: Any, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Note how long the save took."""
        self._save = max(self._save, self._clock() - self._mark)


def _last_words(step: int, needed: float, left: float, *, fits: bool) -> str:
    if fits:
        return f"asked to end: saving a checkpoint after step {step}"
    return f"asked to end: no checkpoint after step {step}, for it takes {needed:.0f} s and {left:.0f} s are left"
