import json
import shutil
from pathlib import Path

import pytest

from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.metrics import Recorder, read_metrics
from tunesmith_stages.train.preference_losses import LABEL_FIGURES, PAIR_FIGURES


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(tmp_path: Path, clock: Clock) -> Recorder:
    exchange = Exchange(tmp_path)
    exchange.folder.mkdir()
    return Recorder(tmp_path / "metrics.jsonl", exchange, lambda step: step * 50, clock)


def told(tmp_path: Path) -> list[dict[str, object]]:
    return Exchange(tmp_path).listen()


def test_a_training_event_has_pace_and_time_left(tmp_path: Path, recorder: Recorder, clock: Clock) -> None:
    """Tokens per second are those since the last event, the time left is by the pace of this attempt."""
    recorder.begin(0, None)
    clock.now += 2
    recorder.record(1, 10, 0.1, {"loss": 3.0, "grad_norm": 1.5, "learning_rate": 1e-4, "epoch": 0.1})
    clock.now += 1
    recorder.record(3, 10, 0.3, {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 2e-4})
    events = read_metrics(tmp_path / "metrics.jsonl")
    assert [(event["step"], event["time"], event["tokens"], event["tokensPerSecond"]) for event in events] == [
        (1, 102.0, 50, 25.0),
        (3, 103.0, 150, 100.0),
    ]
    assert told(tmp_path)[1] == {
        "done": 3,
        "total": 10,
        "metrics": {
            "epoch": 0.3,
            "loss": 2.0,
            "gradNorm": 1.0,
            "learningRate": 2e-4,
            "tokensPerSecond": 100.0,
            "etaSeconds": 7.0,
        },
    }


def test_steps_between_events_are_told(tmp_path: Path, recorder: Recorder, clock: Clock) -> None:
    """Where a step takes long, whoever watches sees each, with the figures as they were; the record has events only."""
    recorder.begin(0, None)
    clock.now += 600  # the base is asked, say
    recorder.measure_from(0)
    clock.now += 60
    recorder.reached(1, 10)
    clock.now += 60
    recorder.record(2, 10, 0.2, {"loss": 3.0})
    clock.now += 60
    recorder.reached(3, 10)
    first, _, last = told(tmp_path)
    assert first == {"done": 1, "total": 10, "metrics": {"etaSeconds": 540.0}}
    assert last == {
        "done": 3,
        "total": 10,
        "metrics": {"epoch": 0.2, "loss": 3.0, "tokensPerSecond": 0.8, "etaSeconds": 420.0},
    }
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_quick_steps_are_not_all_told(tmp_path: Path, recorder: Recorder, clock: Clock) -> None:
    """Of many steps in a moment one is told in five seconds; what is recorded is told always, and counts as told."""
    recorder.begin(0, None)
    for step in range(1, 101):
        clock.now += 0.25
        recorder.reached(step, 200)
        if step == 50:
            recorder.record(step, 200, 0.1, {"loss": 3.0})
    assert [event["done"] for event in told(tmp_path)] == [1, 21, 41, 50, 70, 90]


def test_progress_that_cannot_be_told_ends_nothing(tmp_path: Path, recorder: Recorder, clock: Clock) -> None:
    """A volume that is full or gone for a moment costs a line of progress; what is recorded must be written."""
    recorder.begin(0, None)
    shutil.rmtree(Exchange(tmp_path).folder)
    clock.now += 60
    recorder.reached(1, 10)
    with pytest.raises(FileNotFoundError):
        recorder.record(1, 10, 0.1, {"loss": 3.0})


def test_what_is_done_besides_steps_is_told(tmp_path: Path, recorder: Recorder) -> None:
    """An evaluation has a count of its own, beside the steps; before the first step there is no time left."""
    recorder.begin(7, None)
    recorder.reached(7, 10, "evaluating: 3 of 40 batches")
    assert told(tmp_path) == [{"done": 7, "total": 10, "metrics": {}, "note": "evaluating: 3 of 40 batches"}]


def test_rewards_are_recorded(tmp_path: Path, recorder: Recorder) -> None:
    """What methods that learn from preferences report of training and held-out rows has names like other figures."""
    recorder.begin(0, None)
    given = {name: index / 10 for index, name in enumerate((*PAIR_FIGURES, *LABEL_FIGURES))}
    recorder.record(1, 10, 0.1, {"loss": 0.6, **given})
    recorder.record(1, 10, 0.1, {f"eval_{name}": value for name, value in given.items()})
    training, held_out = read_metrics(tmp_path / "metrics.jsonl")
    names = ("rewardMargin", "rewardAccuracy", "rewardDesirable", "rewardUndesirable")
    assert [training[name] for name in names] == [0.0, 0.1, 0.2, 0.3]
    assert [held_out[f"evalR{name[1:]}"] for name in names] == [0.0, 0.1, 0.2, 0.3]


def test_progress_keeps_the_last_held_out_loss(tmp_path: Path, recorder: Recorder) -> None:
    """Whoever sees only the last line sees every figure."""
    recorder.begin(0, None)
    recorder.record(1, 10, 0.1, {"eval_loss": 4.0})
    recorder.record(2, 10, 0.2, {"loss": 3.0})
    metrics = told(tmp_path)[-1]["metrics"]
    assert isinstance(metrics, dict)
    assert (metrics["evalLoss"], metrics["loss"]) == (4.0, 3.0)


def test_a_resumed_record_drops_what_was_lost(tmp_path: Path, recorder: Recorder) -> None:
    """Lines after the checkpoint belong to steps that are taken again."""
    recorder.begin(0, None)
    recorder.record(1, 10, 0.1, {"loss": 3.0})
    earlier = tmp_path / "checkpoint.jsonl"
    earlier.write_text((tmp_path / "metrics.jsonl").read_text())
    recorder.record(2, 10, 0.2, {"loss": 2.5})
    recorder.begin(1, earlier)
    recorder.record(2, 10, 0.2, {"loss": 2.4})
    assert [(event["step"], event["loss"]) for event in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 3.0),
        (2, 2.4),
    ]
    assert recorder.latest["loss"] == 2.4


def test_summaries_are_no_events(tmp_path: Path, recorder: Recorder) -> None:
    """What transformers logs at the very end is no point of the curve."""
    recorder.begin(0, None)
    recorder.record(2, 2, 1.0, {"train_runtime": 3.0, "train_loss": 9.0})
    assert told(tmp_path) == []


def test_progress_holds_no_nan(tmp_path: Path, recorder: Recorder) -> None:
    """JSON has no NaN; the record keeps it for people, progress leaves it out."""
    recorder.begin(0, None)
    recorder.record(1, 2, 0.5, {"loss": float("nan")})
    metrics = told(tmp_path)[0]["metrics"]
    assert isinstance(metrics, dict)
    assert "loss" not in metrics
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1


def test_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    """A process that died while it wrote leaves half a line."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]


def test_time_left_goes_by_recent_steps(tmp_path: Path, recorder: Recorder, clock: Clock) -> None:
    """The slow first step, in which everything is set up, does not count for ever."""
    recorder.begin(0, None)
    clock.now += 1000
    for step in range(1, 101):
        recorder.record(step, 200, 0.1, {"loss": 3.0})
        clock.now += 2
    metrics = [event["metrics"] for event in told(tmp_path)]
    assert isinstance(metrics[0], dict)
    assert isinstance(metrics[-1], dict)
    assert (metrics[0]["etaSeconds"], metrics[-1]["etaSeconds"]) == (199_000.0, 200.0)


def test_a_checkpoint_tells_how_long_it_took(tmp_path: Path, recorder: Recorder, clock: Clock) -> None:
    """The operator sizes the grace period by it and the step before it, and sees it in any of the last lines alone."""
    recorder.begin(0, None)
    recorder.record(1, 10, 0.1, {"loss": 3.0})
    clock.now += 60
    recorder.record(2, 10, 0.2, {"loss": 2.0})
    recorder.saved(2, 10, 1.23456)
    recorder.record(3, 10, 0.3, {"loss": 2.0})
    first, _, saved, last = (event["metrics"] for event in told(tmp_path))
    assert isinstance(first, dict)
    assert isinstance(saved, dict)
    assert isinstance(last, dict)
    assert "checkpointSeconds" not in first
    assert saved["checkpointSeconds"] == last["checkpointSeconds"] == 31.235
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
