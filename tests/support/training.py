"""Starts trainings as programs of their own, and looks at what they do and leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.ports import free_port
from support.prepared import train_config
from tunesmith_stages.contract import StageName, StageResult
from tunesmith_stages.train.metrics import read_metrics
from tunesmith_stages.volume import Volume

PATIENCE = 300.0
"""Seconds after which a training of a few seconds counts as stuck, on a busy machine too."""

EPOCHS = {"numTrainEpochs": "3"}
STEPS = 33
"""Of 42 rows in `EPOCHS`."""
EVERY = {"evalSteps": 11, "saveSteps": 3, "keep": 2}


@contextmanager
def started(
    volume: Volume,
    key: str,
    attempt: str,
    params: Mapping[str, Any],
    runtime: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Iterator[subprocess.Popen[str]]:
    """Start a training's program, `within` another command if one is given; it is gone when the block ends."""
    config = volume.root / f"{key}.{attempt}.node-{(environ or {}).get('JOB_COMPLETION_INDEX', '0')}.json"
    config.write_text(train_config(volume.root, key=key, attempt=attempt, params=params, runtime=runtime).to_json())
    process = subprocess.Popen(
        [*within, sys.executable, "-m", "tunesmith_stages.train", "--config", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **(environ or {})},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def train(
    volume: Volume, key: str, attempt: str = "1", *, params: Mapping[str, Any], runtime: Mapping[str, Any]
) -> StageResult:
    """Train to the end and return the result."""
    with started(volume, key, attempt, params, runtime) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    result = volume.result(StageName.TRAIN, key)
    assert result is not None
    return result


@contextmanager
def two_nodes(
    volume: Volume, key: str, attempt: str, params: Mapping[str, Any], runtime: Mapping[str, Any]
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start both programs of a training over two nodes of one process each, which are one machine here."""
    runtime = {**runtime, "nodes": 2, "processesPerNode": 1}
    place = {"TUNESMITH_MASTER_ADDR": "127.0.0.1", "TUNESMITH_MASTER_PORT": str(free_port())}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                started(volume, key, attempt, params, runtime, environ={**place, "JOB_COMPLETION_INDEX": str(node)})
            )
            for node in range(2)
        ]


def out(volume: Volume, key: str) -> Path:
    return volume.unit(StageName.TRAIN, key) / "out"


def check_same_end(volume: Volume, one: str, other: str, tolerance: float = 2e-3) -> None:
    """Check that weights, record and steps of two trainings are the same, within an absolute `tolerance`."""
    import torch
    from safetensors.torch import load_file

    tensors = [load_file(out(volume, key) / "adapter_model.safetensors") for key in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensor, tensors[1][name], rtol=0, atol=tolerance, msg=name)
    records = [read_metrics(volume.unit(StageName.TRAIN, key) / "logs" / "metrics.jsonl") for key in (one, other)]
    assert [event["step"] for event in records[1]] == [event["step"] for event in records[0]]
    pairs = [(a["loss"], b["loss"]) for a, b in zip(*records, strict=True) if "loss" in a]
    assert [b for _, b in pairs] == pytest.approx([a for a, _ in pairs], abs=tolerance)


def failure(volume: Volume, key: str, attempt: str) -> dict[str, Any]:
    folder = volume.attempt(StageName.TRAIN, key, attempt)
    found: dict[str, Any] = json.loads((folder / "failure.json").read_text())
    return found


def notes(volume: Volume, key: str, attempt: str) -> list[str]:
    return notes_of(volume.attempt(StageName.TRAIN, key, attempt))


def notes_of(folder: Path) -> list[str]:
    """Return what was noted in an attempt's folder, or in that of a result."""
    events = [json.loads(line) for line in (folder / "progress.jsonl").open()]
    return [event["note"] for event in events if "note" in event]


def steps_done(progress: Path) -> int:
    if not progress.exists():
        return 0
    lines = progress.read_text().split("\n")[:-1]
    return max((json.loads(line).get("done", 0) for line in lines), default=0)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.03)


def ranks_of(parent: int) -> list[int]:
    """Return the processes that torchrun, a child of `parent`, started."""
    return [rank for launcher in children(parent) for rank in children(launcher)]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
