"""A real training that is shown in a tracker: what is to be seen there, and that it is the same training."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.mlflow_server import RealMlflow, real_mlflow
from support.prepared import write_base, write_prepared
from support.tracker_servers import MlflowServer, WandbServer
from support.tracking import TOKEN, tokens_below
from support.training import (
    EPOCHS,
    EVERY,
    PATIENCE,
    STEPS,
    alive,
    children,
    started,
    steps_done,
    wait_for,
)
from tunesmith_stages.contract import ExitCode, StageName, StageResult
from tunesmith_stages.track.asked import TOKEN_VARIABLE
from tunesmith_stages.train.metrics import read_metrics
from tunesmith_stages.volume import Volume

pytestmark = pytest.mark.e2e

ALONE = {**EVERY, "processesPerNode": 1, "gradientAccumulationSteps": 2}
SHOWN = {"project": "team/bots", "params": {"learningRate": "0.0001"}, "model": "volume base", "data": "faq"}
ENVIRON = {TOKEN_VARIABLE: TOKEN}
ALL_STEPS = [*range(1, STEPS + 1)]


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Return a volume with a base and prepared rows."""
    root = tmp_path_factory.mktemp("volume")
    write_base(root / "base")
    write_prepared(root / "prepared", train=42, validation=9)
    return Volume(root)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMlflow]:
    """Yield a real MLflow server."""
    with real_mlflow(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


def trained(volume: Volume, key: str, tracking: dict[str, Any] | None, attempt: str = "1") -> StageResult:
    """Train to the end and return the result."""
    runtime = ALONE if tracking is None else {**ALONE, "tracking": {**SHOWN, **tracking}}
    with started(volume, key, attempt, EPOCHS, runtime, environ=ENVIRON) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert TOKEN not in errors
    result = volume.result(StageName.TRAIN, key)
    assert result is not None
    return result


def ended_early(volume: Volume, key: str, tracking: dict[str, Any], step: int, number: int) -> int:
    """Train until some steps are done, send the training a signal, see that nothing of it is left; return its code."""
    with started(volume, key, "1", EPOCHS, {**ALONE, "tracking": {**SHOWN, **tracking}}, environ=ENVIRON) as process:
        progress = volume.attempt(StageName.TRAIN, key, "1") / "progress.jsonl"
        wait_for(lambda: process.poll() is not None or steps_done(progress) >= step)
        below = children(process.pid)
        below += [other for child in below for other in children(child)]
        process.send_signal(number)
        process.wait(PATIENCE)
    wait_for(lambda: not any(alive(pid) for pid in below))
    return process.returncode


def tracking_notes(volume: Volume, key: str) -> list[str]:
    events = [json.loads(line) for line in (volume.unit(StageName.TRAIN, key) / "progress.jsonl").open()]
    return [event["note"] for event in events if event.get("note", "").startswith("tracking: ")]


def recorded(volume: Volume, key: str, name: str) -> list[tuple[int, float]]:
    """Return steps and values of what the training itself has recorded."""
    record = read_metrics(volume.unit(StageName.TRAIN, key) / "logs" / "metrics.jsonl")
    return [(event["step"], event[name]) for event in record if name in event]


def times(volume: Volume, key: str) -> list[float]:
    """Return when (Unix, seconds) the training itself has recorded its losses."""
    record = read_metrics(volume.unit(StageName.TRAIN, key) / "logs" / "metrics.jsonl")
    return [event["time"] for event in record if "loss" in event]


@pytest.fixture(scope="module")
def untracked(volume: Volume) -> StageResult:
    """Return the result of the same training without a tracker."""
    return trained(volume, "untracked", None)


def test_tensorboard_shows_what_was_recorded(volume: Volume, untracked: StageResult) -> None:
    """Everything that metrics.jsonl holds is in the event file, and what comes out is the same to the byte."""
    result = trained(volume, "board", {"type": "TensorBoard"})
    assert result.digest == untracked.digest
    (file,) = volume.tracking("test", "board").glob("*tfevents*")
    read = EventAccumulator(str(file))
    read.Reload()
    assert [event.wall_time for event in read.Scalars("loss")] == times(volume, "board")
    for name in read.Tags()["scalars"]:
        shown = [(event.step, event.value) for event in read.Scalars(name)]
        wanted = [*dict(recorded(volume, "board", name)).items()]  # the epoch stands in two lines of some steps
        assert [step for step, _ in shown] == [step for step, _ in wanted]
        assert [value for _, value in shown] == pytest.approx([value for _, value in wanted], rel=1e-6)
    assert {"loss", "evalLoss", "gradNorm", "learningRate", "tokensPerSecond"} <= {*read.Tags()["scalars"]}


def test_mlflow_shows_a_training_that_was_interrupted_as_one_run(
    volume: Volume, untracked: StageResult, mlflow: RealMlflow
) -> None:
    """A real server has each step once, the settings, and the end; what comes out is the same to the byte."""
    given = {"type": "MLflow", "url": mlflow.url}
    assert ended_early(volume, "flow", given, 9, signal.SIGTERM) == ExitCode.INTERRUPTED
    assert trained(volume, "flow", given, "2").digest == untracked.digest
    (note,) = tracking_notes(volume, "flow")
    run = note.rpartition("/")[2]
    shown = mlflow.ask("runs/get", run_id=run)["run"]
    assert (shown["info"]["run_name"], shown["info"]["status"]) == ("test", "FINISHED")
    assert shown["data"]["params"] == [{"key": "learningRate", "value": "0.0001"}]
    tags = {tag["key"]: tag["value"] for tag in shown["data"]["tags"]}
    assert tags["tunesmith.key"] == "flow"
    assert tags["tunesmith.model"] == f"volume base ({'b' * 64})"
    for name in ("loss", "evalLoss"):
        shown_there, wanted = mlflow.history(run, name), recorded(volume, "flow", name)
        assert [step for step, _ in shown_there] == [step for step, _ in wanted]
        assert [value for _, value in shown_there] == pytest.approx([value for _, value in wanted], abs=1e-4)
    assert not tokens_below(volume.root)


@pytest.mark.nightly
def test_wandb_shows_a_training_that_was_killed_as_one_run(volume: Volume, untracked: StageResult) -> None:
    """After kill -9 nothing stays behind, and the next attempt goes on with the run: each step once."""
    server = WandbServer(TOKEN)
    with server.running():
        given = {"type": "WeightsAndBiases", "url": server.url}
        assert ended_early(volume, "wandb", given, 9, signal.SIGKILL) == -signal.SIGKILL
        assert trained(volume, "wandb", given, "2").digest == untracked.digest
    ((id_, run),) = server.runs.items()
    assert [row["_step"] for row in server.history(id_)] == ALL_STEPS
    assert run["exit"] == 0
    assert not tokens_below(volume.root)


def test_a_tracker_that_never_answers_changes_nothing(volume: Volume, untracked: StageResult) -> None:
    """The result is the same to the byte, the training itself takes no longer, and one note says what was wrong."""
    server = MlflowServer()
    server.broken = "silent"
    with server.running():
        result = trained(volume, "silent", {"type": "MLflow", "url": server.url})
        server.broken = ""
    assert result.digest == untracked.digest
    assert result.numbers["steps"] == STEPS
    began, *_ = tracking_notes(volume, "silent")
    assert "does not answer" in began
    assert len(tracking_notes(volume, "silent")) == 2
    log = (volume.unit(StageName.TRAIN, "silent") / "logs" / "tracking.log").read_text()
    assert "ReadTimeout" in log
    assert TOKEN not in log
