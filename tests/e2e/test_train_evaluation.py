"""A training that is asked to end in the middle of a long evaluation leaves it; whoever goes on makes up for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.prepared import write_base, write_preferences, write_prepared
from support.training import PATIENCE, check_same_end, failure, notes, started, train, wait_for
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.train.metrics import read_metrics
from tunesmith_stages.volume import Volume

pytestmark = pytest.mark.e2e

HELD_OUT = 800
"""Rows: one at a time they take a hundred times as long as a step."""
PARAMS: dict[str, Any] = {"numTrainEpochs": None, "maxSteps": 12, "precision": "FP32", "keepBest": True}
RUNTIME = {"evalSteps": 4, "saveSteps": None, "perDeviceEvalBatchSize": 1, "graceSeconds": 120, "keep": 1}
NO_BETTER = {"patience": 1, "minDelta": "100"}
"""It ends a training at its second evaluation, whatever that comes to."""


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Return a volume with a base and few rows to train on, many held out."""
    root = tmp_path_factory.mktemp("volume")
    write_base(root / "base")
    write_prepared(root / "prepared", train=22, validation=HELD_OUT)
    return Volume(root)


@pytest.mark.parametrize(
    ("name", "more", "last"),
    [
        pytest.param("to-the-end", {}, 12, id="to the end", marks=pytest.mark.nightly),
        pytest.param("stopped-early", {"earlyStopping": NO_BETTER}, 8, id="stopped early", marks=pytest.mark.nightly),
    ],
)
def test_an_evaluation_is_left_and_made_up_for(volume: Volume, name: str, more: dict[str, Any], last: int) -> None:
    """The step is saved, and the end is that of a training that nothing disturbed, with every evaluation in place."""
    params = {**PARAMS, **more}
    quiet = train(volume, f"quiet-{name}", params=params, runtime=RUNTIME)
    end_in_evaluation(volume, name, "1", params, 4, lambda folder: evaluates_after(folder, 4))
    end_in_evaluation(volume, name, "2", params, 4, model_is_ready)  # before the first step: it makes up for it
    assert "asked to end: there is a checkpoint of step 4 already" in notes(volume, name, "2")
    oftener = {**RUNTIME, "saveSteps": 6, "keep": 3}
    end_in_evaluation(volume, name, "3", params, last, lambda folder: evaluates_after(folder, last), runtime=oftener)
    assert (volume.checkpoints(name) / "step-6").is_dir(), "what is asked for now holds, not what was saved"
    assert record(volume.attempt(StageName.TRAIN, name, "3"))[4]["evalLoss"] > 0
    result = train(volume, name, "4", params=params, runtime=RUNTIME)
    unit, expected = (volume.unit(StageName.TRAIN, key) for key in (name, f"quiet-{name}"))
    assert [event["step"] for event in record(unit) if "evalLoss" in event] == list(range(4, last + 1, 4))
    assert record(unit) == record(expected)
    assert result.outputs == quiet.outputs
    check_same_end(volume, f"quiet-{name}", name, tolerance=0)


def test_one_of_preferences_is_left_too(tmp_path: Path) -> None:
    """KTO takes all held-out rows twice: for its reference point, and for the loss."""
    volume = Volume(tmp_path)
    write_base(tmp_path / "base")
    write_preferences(tmp_path / "prepared", "KTO", train=22, validation=HELD_OUT)
    numbers = {"beta": "0.1", "desirableWeight": "1", "undesirableWeight": "1"}
    params = {**PARAMS, "method": "KTO", "preference": numbers}
    end_in_evaluation(volume, "kto", "1", params, 4, lambda folder: evaluates_after(folder, 4))


def evaluates_after(folder: Path, step: int) -> bool:
    """Return whether an attempt has recorded a step, and not yet the evaluation after it."""
    if not (folder / "logs" / "metrics.jsonl").exists():
        return False
    last = (record(folder) or [{"step": 0}])[-1]
    return last["step"] == step and "evalLoss" not in last


def model_is_ready(folder: Path) -> bool:
    """Return whether an attempt has come to where its first step would begin."""
    return any(note.startswith("computing with ") for note in notes_so_far(folder))


def notes_so_far(folder: Path) -> list[str]:
    if not (folder / "progress.jsonl").exists():
        return []
    lines = (folder / "progress.jsonl").read_text().split("\n")[:-1]
    return [event["note"] for event in map(json.loads, lines) if "note" in event]


def end_in_evaluation(
    volume: Volume,
    key: str,
    attempt: str,
    params: dict[str, Any],
    step: int,
    reached: Callable[[Path], bool],
    *,
    runtime: Mapping[str, Any] = RUNTIME,
) -> None:
    """Start an attempt and ask it to end in the evaluation after a step; see that it saves, and does not finish it."""
    folder = volume.attempt(StageName.TRAIN, key, attempt)
    with started(volume, key, attempt, params, runtime) as process:
        wait_for(lambda: process.poll() is not None or reached(folder))
        assert process.poll() is None, process.communicate()[1]
        process.terminate()
        errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == ExitCode.INTERRUPTED, errors
    assert failure(volume, key, attempt)["reason"] == "Interrupted"
    assert evaluates_after(folder, step)
    state = json.loads((volume.checkpoints(key) / f"step-{step}" / "trainer_state.json").read_text())
    assert max((event["step"] for event in state["log_history"] if "eval_loss" in event), default=0) < step


def record(folder: Path) -> list[dict[str, Any]]:
    """Return the figures of a record that do not depend on the clock."""
    events = read_metrics(folder / "logs" / "metrics.jsonl")
    return [
        {name: value for name, value in event.items() if name not in {"time", "tokensPerSecond"}} for event in events
    ]
