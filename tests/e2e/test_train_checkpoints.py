"""A volume that is full when a training saves: it says so, keeps what it had, and goes on when there is room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.disks import small_disk
from support.prepared import PARAMS as ALL_PARAMS
from support.prepared import RUNTIME as ALL_RUNTIME
from support.prepared import write_base, write_prepared
from support.training import PATIENCE, failure, notes_of, started, train
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.train import checkpoints
from tunesmith_stages.train.deepspeed_config import state_layout
from tunesmith_stages.train.metrics import read_metrics
from tunesmith_stages.train.settings import read_settings
from tunesmith_stages.volume import Volume

pytestmark = pytest.mark.e2e

STEPS = 12
PARAMS = {
    "finetuningType": "Full",
    "lora": None,
    "learningRate": "5e-3",
    "numTrainEpochs": None,
    "maxSteps": STEPS,
    "precision": "FP32",
}
RUNTIME = {"processesPerNode": 1, "gradientAccumulationSteps": 2, "saveSteps": 3, "keep": 2}
KEY = "k"


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Volume]:
    """Yield a volume of 16 MiB of its own, with a base and prepared rows."""
    with small_disk(tmp_path / "disk", "16m") as folder:
        write_base(folder / "base")
        write_prepared(folder / "prepared", train=22)
        yield Volume(folder)


def test_a_volume_that_is_full_when_it_saves(small_volume: Volume) -> None:
    """Whether at a checkpoint or at the end: nothing is lost but what was not saved, and nothing half-written stays."""
    printed = train_until_full(small_volume, "1", at=lambda: newest(small_volume) >= 6)
    assert "NoSpace" in printed
    if "failure.json could not be written" not in printed:  # there is no room for it either until something is removed
        assert failure(small_volume, KEY, "1")["reason"] == "NoSpace"
        assert "Free space" in failure(small_volume, KEY, "1")["hint"]
    saved = newest(small_volume)
    assert 6 <= saved < STEPS

    printed = train_until_full(small_volume, "2", at=lambda: newest(small_volume) == STEPS)
    assert "NoSpace" in printed
    assert notes_of(small_volume.attempt(StageName.TRAIN, KEY, "2"))[1] == f"going on from step {saved}"
    assert newest(small_volume) == STEPS

    result = train(small_volume, KEY, "3", params=PARAMS, runtime=RUNTIME)
    unit = small_volume.unit(StageName.TRAIN, KEY)
    assert f"going on from step {STEPS}" in notes_of(unit)
    assert result.numbers["steps"] == STEPS
    assert [event["step"] for event in read_metrics(unit / "logs" / "metrics.jsonl")] == list(range(1, STEPS + 1))


def train_until_full(volume: Volume, attempt: str, at: Callable[[], bool]) -> str:
    """Fill the volume to its last byte at a moment, and keep it full; return what the training says when it ends."""
    ballast = volume.root / "ballast"
    with started(volume, KEY, attempt, PARAMS, RUNTIME) as process:
        end = time.monotonic() + PATIENCE
        while process.poll() is None and not at():
            assert time.monotonic() < end, "it takes too long"
            time.sleep(0.002)
        while process.poll() is None:
            fill(ballast)
            time.sleep(0.002)
        printed = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == ExitCode.NO_SPACE, printed
    assert volume.result(StageName.TRAIN, KEY) is None
    assert not (volume.attempt(StageName.TRAIN, KEY, attempt) / "out").exists()
    names = [path.name for path in volume.checkpoints(KEY).iterdir()]
    assert all(name.removeprefix("step-").isdecimal() for name in names), names
    ballast.unlink()
    return printed


def fill(ballast: Path) -> None:
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass


def newest(volume: Volume) -> int:
    """Return the step of the newest whole checkpoint; 0: there is none."""
    layout = state_layout(read_settings({**ALL_PARAMS, **PARAMS}, {**ALL_RUNTIME, **RUNTIME}))
    found, _ = checkpoints.newest(volume.checkpoints(KEY), 1, layout)
    return found.step if found else 0
