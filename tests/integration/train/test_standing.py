"""How far a training is, from the step or the batch that is done to what people see."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import TrainerControl, TrainerState

from tunesmith.core.progress import read_log
from tunesmith_stages.contract import StageName
from tunesmith_stages.progress import Progress
from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.metrics import Recorder
from tunesmith_stages.train.parent import _pass_on
from tunesmith_stages.train.standing import TellStanding
from tunesmith_stages.train.trainer import FineTuner

STEPS = 8


class Told:
    """A training's record, and what of it comes to be seen; a test moves its clock."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.exchange = Exchange(folder)
        self.exchange.folder.mkdir()
        self.recorder = Recorder(folder / "metrics.jsonl", self.exchange, lambda step: step * 50, lambda: self.now)
        self.recorder.begin(0, None)
        self._progress = Progress(StageName.TRAIN, "train", folder)

    def shown(self, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
        """Return what the operator reads of the lines that the program has printed since."""
        for event in self.exchange.listen():
            _pass_on(event, self._progress)
        return dict(read_log(capsys.readouterr().out).progress)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def take_step(callback: TellStanding, told: Told, step: int, seconds: float, *, first: bool = True, logs: bool) -> None:
    """Take a step as Trainer does, on rank 0 or another."""
    state = TrainerState(global_step=step - 1, max_steps=STEPS, is_world_process_zero=first)
    callback.on_step_begin(None, state, TrainerControl())
    told.now += seconds
    state.global_step = step
    callback.on_step_end(None, state, TrainerControl(should_log=logs))


def test_every_long_step_is_seen(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """A minute's step is told though nothing is logged yet; what came before the first one costs none of its time."""
    callback = TellStanding(told.recorder)
    told.now += 1000  # the base is asked
    take_step(callback, told, 1, 60, logs=False)
    take_step(callback, told, 2, 60, logs=False)
    expected = {"done": 2, "total": STEPS, "of": "steps", "text": "25 %", "etaSeconds": 360, "eta": "6m00s"}
    assert told.shown(capsys) == {"stage": "train", "unit": "train", **expected}


def test_who_tells(told: Told) -> None:
    """The first rank alone does; of a step that is logged the record tells, with its figures."""
    callback = TellStanding(told.recorder)
    take_step(callback, told, 1, 60, first=False, logs=False)
    take_step(callback, told, 1, 60, logs=True)
    assert told.exchange.listen() == []


def counted(told: Told, rank: int, batches: list[list[int]]) -> list[list[int]]:
    """Go through batches at 4 s each, after the step 5."""
    arguments, state = SimpleNamespace(process_index=rank), TrainerState(global_step=5, max_steps=STEPS)
    trainer = SimpleNamespace(args=arguments, state=state, _recorder=told.recorder)
    taken = []
    for batch in FineTuner._counted(cast(FineTuner, trainer), batches, "evaluating"):
        taken.append(batch)
        told.now += 4
    return taken


def test_an_evaluation_is_seen_to_get_on(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own count stands in place of the share, beside the steps and figures; the next step has the share again."""
    told.recorder.record(5, STEPS, 0.5, {"loss": 1.25})
    batches = [[number] for number in range(6)]
    assert counted(told, 0, batches) == batches
    seen = told.shown(capsys)
    assert (seen["text"], seen["done"], seen["loss"]) == ("evaluating: 4 of 6 batches", 5, "1.25")
    told.recorder.record(5, STEPS, 0.5, {"eval_loss": 1.5})
    assert told.shown(capsys)["text"] == "62 %"


def test_one_rank_counts(told: Told) -> None:
    """The others take their batches and say nothing."""
    assert counted(told, 1, [[1], [2], [3]]) == [[1], [2], [3]]
    assert told.exchange.listen() == []
