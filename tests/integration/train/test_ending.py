"""What a rank does that is asked to end, alone in its group; `tests/e2e/test_train_nodes.py` has several."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import TrainerControl, TrainerState

from tunesmith_stages.program import InterruptedStage
from tunesmith_stages.train.ending import EndTogether
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
    """Return what ends a training in which an evaluation took 10 s and the save after it 30 s."""
    times = iter([100.0, 110.0, 140.0, 200.0])
    made = EndTogether(exchange, 0, torch.device("cpu"), lambda: next(times))
    step(made, TrainerControl(should_evaluate=True, should_save=True))
    made.on_evaluate(None, TrainerState(), TrainerControl())
    made.on_save(None, TrainerState(), TrainerControl())
    return made


def step(made: EndTogether, control: TrainerControl) -> TrainerControl:
    made.on_step_end(None, TrainerState(global_step=7), control)
    return control


@pytest.mark.parametrize(
    ("seconds", "due", "expected"),
    [
        pytest.param(35, TrainerControl(), (True, False), id="time for a checkpoint"),
        pytest.param(45, TrainerControl(should_evaluate=True), (True, True), id="and for the evaluation that is due"),
        pytest.param(35, TrainerControl(should_evaluate=True), (False, False), id="not for both"),
        pytest.param(25, TrainerControl(should_save=True), (False, False), id="nor for one that is due anyway"),
        pytest.param(-5, TrainerControl(), (False, False), id="it is too late"),
    ],
)
def test_a_save_that_cannot_be_finished_is_not_begun(
    exchange: Exchange, seconds: float, due: TrainerControl, expected: tuple[bool, bool]
) -> None:
    """Asked to end, a rank saves if the time left is enough by what it took before; it says what it does."""
    made = ending(exchange)
    exchange.ask_to_end(0, seconds)
    control = step(made, due)
    assert control.should_training_stop
    assert (control.should_save, control.should_evaluate) == expected
    [event] = exchange.listen()
    assert event["note"].startswith(f"asked to end: {'saving a' if expected[0] else 'no'} checkpoint after step 7")


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
    assert (control.should_training_stop, control.should_save, control.should_evaluate) == (False, False, True)
    made.check()
    assert exchange.listen() == []


def test_what_was_not_begun_is_not_begun(exchange: Exchange) -> None:
    """Asked while the model is loaded, or when all steps are done: it ends there."""
    made = ending(exchange)
    exchange.ask_to_end(0, 60)
    with pytest.raises(InterruptedStage):
        made.check()
