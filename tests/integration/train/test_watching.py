"""What is looked at while it trains, and what the parent is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState

from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.guards import Guards
from tunesmith_stages.train.heartbeat import Heartbeat
from tunesmith_stages.train.limits import Limits


@pytest.mark.parametrize("what", ["should_save", "should_evaluate", "should_training_stop"])
def test_the_loss_is_reported_before_what_hangs_on_it(what: str) -> None:
    """A checkpoint of a training that has diverged is never written, and a short training has a last loss."""
    guards, control = Guards(Limits(), 1e-4), TrainerControl()
    guards.on_step_end(None, TrainerState(), control)
    assert not control.should_log
    setattr(control, what, True)
    guards.on_step_end(None, TrainerState(), control)
    assert control.should_log


def test_every_pass_of_the_model_is_a_sign_of_life(tmp_path: Path) -> None:
    """Questions to the base, proofs and evaluations may take longer than a step: rank 0 tells that it lives."""
    exchange = Exchange(tmp_path)
    exchange.folder.mkdir()
    models = [torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)]
    for rank, model in enumerate(models):
        Heartbeat(exchange).listen_to(model, rank)
    models[1](torch.zeros(1))
    assert exchange.last_beat == 0
    models[0](torch.zeros(1))
    assert exchange.last_beat > 0
