"""Tells the parent that the training lives: rank 0 gives a sign after every pass, checkpoint and file that is saved."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from tunesmith_stages.train.exchange import Exchange


class Heartbeat(TrainerCallback):
    """Gives a sign of life whenever something is finished. A rank that hangs makes rank 0 wait, so one is enough."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def _beat(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._exchange.beat()

    on_train_begin = on_step_begin = on_substep_end = on_step_end = on_save = _beat

    def listen_to(self, model: Any, rank: int) -> None:
        """Give a sign whenever the model has computed something: for evaluations, questions and proofs, too."""
        if rank == 0:
            model.register_forward_hook(lambda *_: self._exchange.beat())
