"""What a rank does that is asked to end, alone in its group; `tests/e2e/test_train_nodes.py` has several."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import TrainerControl, TrainerState

from tunesmith_stages.program import InterruptedStage
from tunesmith_stages.train.ending import EndTogether, EvaluationLeft
from tunesmith_stages.train.exchange import Exchange


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    """Make this process the only rank of a group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    """Return an attempt's exchange in which nothing was said."""
    made = Exchange(tmp_path)
    made.folder.mkdir()
    return made


def ending(exchange: Exchange) -> EndTogether:
    """Return what ends a training in which a save after an evaluation of 10 s took 30 s."""
    times = iter([100.0, 110.0, 140.0, 200.0, 210.0])
    made = EndTogether(exchange, 0, torch.device("cpu"), lambda: next(times))
    step(made, TrainerControl(should_evaluate=True, should_save=True), number=6)
    made.on_evaluate(None, TrainerState(global_step=6), TrainerControl())
    made.on_save(None, TrainerState(global_step=6), TrainerControl())
    return made


def step(made: EndTogether, control: TrainerControl, number: int = 7) -> TrainerControl:
    made.on_step_end(None, TrainerState(global_step=number), control)
    return control


@pytest.mark.parametrize(
    ("seconds", "due", "saves"),
    [
        pytest.param(35, TrainerControl(), True, id="time for a checkpoint"),
        pytest.param(35, TrainerControl(should_evaluate=True), True, id="an evaluation that is due is left out"),
        pytest.param(25, TrainerControl(should_save=True), False, id="no time for one that is due anyway"),
        pytest.param(-5, TrainerControl(), False, id="it is too late"),
    ],
)
def test_a_save_that_cannot_be_finished_is_not_begun(
    exchange: Exchange, seconds: float, due: TrainerControl, saves: bool
) -> None:
    """Asked to end, a rank saves if the time left is enough by what it took before; it says what it does."""
    made = ending(exchange)
    exchange.ask_to_end(0, seconds)
    control = step(made, due)
    assert control.should_training_stop
    assert (control.should_save, control.should_evaluate) == (saves, False)
    [event] = exchange.listen()
    assert event["note"].startswith(f"asked to end: {'saving a' if saves else 'no'} checkpoint after step 7")


@pytest.mark.parametrize(("seconds", "saves"), [(35, True), (25, False)], ids=["time for a checkpoint", "no time"])
def test_an_evaluation_is_left(exchange: Exchange, seconds: float, saves: bool) -> None:
    """However long it would take: the checkpoint of its step is what counts."""
    made = ending(exchange)
    control = TrainerControl(should_evaluate=True)
    exchange.ask_to_end(0, seconds)
    with pytest.raises(EvaluationLeft):
        made.on_prediction_step(None, TrainerState(global_step=7), control)
    assert (control.should_training_stop, control.should_evaluate) == (True, False)
    assert control.should_save is saves


def test_what_is_saved_is_not_saved_again(exchange: Exchange) -> None:
    """An evaluation that is made up for, after the step that the training has gone on from, leaves nothing new."""
    made = EndTogether(exchange, 0, torch.device("cpu"))
    made.on_train_begin(None, TrainerState(global_step=7), TrainerControl())
    exchange.ask_to_end(0, 60)
    control = TrainerControl()
    with pytest.raises(EvaluationLeft):
        made.on_prediction_step(None, TrainerState(global_step=7), control)
    assert (control.should_training_stop, control.should_save) == (True, False)
    [event] = exchange.listen()
    assert event["note"] == "asked to end: there is a checkpoint of step 7 already"


def test_the_first_save_is_tried(exchange: Exchange) -> None:
    """Nobody knows how long it takes, and one that was not finished does no harm."""
    exchange.ask_to_end(0, 2)
    control = step(EndTogether(exchange, 0, torch.device("cpu")), TrainerControl())
    assert (control.should_training_stop, control.should_save) == (True, True)


def test_who_is_not_asked_goes_on(exchange: Exchange) -> None:
    """Another node's time is not this one's."""
    exchange.ask_to_end(1, 60)
    made = ending(exchange)
    control = step(made, TrainerControl(should_evaluate=True))
    made.on_prediction_step(None, TrainerState(global_step=7), control)
    assert (control.should_training_stop, control.should_save, control.should_evaluate) == (False, False, True)
    made.check()
    assert exchange.listen() == []


def test_what_was_not_begun_is_not_begun(exchange: Exchange) -> None:
    """Asked while the model is loaded, or when all steps are done: it ends there."""
    made = ending(exchange)
    exchange.ask_to_end(0, 60)
    with pytest.raises(InterruptedStage):
        made.check()
