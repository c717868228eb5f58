"""Ends trainings at chosen moments, in the ways in which a cluster does it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from support.training import PATIENCE, children, ranks_of
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.train.memory_events import oom_kills
from tunesmith_stages.train.metrics import read_metrics
from tunesmith_stages.volume import Volume

Programs = subprocess.Popen[str]


@dataclass(frozen=True)
class Attempt:
    """An attempt that runs, as can be seen from outside."""

    volume: Volume
    key: str
    name: str
    process: Programs

    @property
    def folder(self) -> Path:
        """The attempt's folder."""
        return self.volume.attempt(StageName.TRAIN, self.key, self.name)

    def told(self) -> list[dict[str, Any]]:
        """Return what rank 0 has told so far; the parent passes it on a moment later."""
        try:
            text = (self.folder / "ranks" / "events.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def last_step(self) -> int:
        """Return the last step that rank 0 has recorded, in this attempt or before; 0: none."""
        record = self.folder / "logs" / "metrics.jsonl"
        return max((int(event["step"]) for event in read_metrics(record)), default=0) if record.exists() else 0

    def writes_after(self, step: int) -> bool:
        """Return whether it writes a checkpoint of a step after `step`."""
        names = [path.name.split(".") for path in self.volume.checkpoints(self.key).glob(f"step-*.{self.name}")]
        return any(int(name[0].removeprefix("step-")) > step for name in names)


MOMENTS: Mapping[str, tuple[Callable[[Attempt, int], bool], float]] = {
    "start": (lambda attempt, _: (attempt.folder / "ranks").is_dir(), 4.0),
    "loading": (lambda attempt, _: bool(attempt.told()), 0.6),
    "between steps": (lambda attempt, step: attempt.last_step() > step, 0.0),
    "inside a step": (lambda attempt, step: attempt.last_step() > step, 0.1),
    "writing a checkpoint": (lambda attempt, step: attempt.writes_after(step), 0.04),
    "final save": (lambda attempt, _: any((attempt.folder / "out").glob("*.safetensors")), 0.03),
}
"""When a training can be ended: what must have happened (after a step), and seconds that may pass from there on."""


def wait_for_moment(moment: str, attempt: Attempt, step: int, random: np.random.Generator) -> bool:
    """Wait until a training is at a moment, a random while into it; return whether it still runs then."""
    reached, longest = MOMENTS[moment]
    end = time.monotonic() + PATIENCE
    while attempt.process.poll() is None and not reached(attempt, step):
        assert time.monotonic() < end, f"the moment never came: {moment}"
        time.sleep(0.002)
    time.sleep(random.uniform(0, longest))
    return attempt.process.poll() is None


def kill_a_rank(process: Programs, random: np.random.Generator) -> None:
    """Kill a rank, as the kernel does when memory runs out; wait for one if there is none yet."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        with suppress(FileNotFoundError, ProcessLookupError):  # what was seen has just ended
            if ranks := [pid for pid in ranks_of(process.pid) if is_rank(pid)]:
                return os.kill(int(random.choice(ranks)), signal.SIGKILL)
        time.sleep(0.002)
    return None


def is_rank(pid: int) -> bool:
    """Return whether a child of torchrun is a rank, not a program that a library asks something while it is loaded."""
    return b"tunesmith_stages.train.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()


def kill_all(process: Programs, _random: np.random.Generator) -> None:
    """Kill the program and all that it has started, as happens to a container whose node goes."""
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in below:
            with suppress(psutil.NoSuchProcess):
                child.kill()


def kill_the_parent(process: Programs, _random: np.random.Generator) -> None:
    """Kill the program alone; what it has started must end by itself."""
    process.kill()


def ask_to_end(process: Programs, _random: np.random.Generator) -> None:
    """Send SIGTERM to the program, as Kubernetes does to the first process of a pod that it ends."""
    process.terminate()


WAYS: Mapping[str, tuple[Callable[[Programs, np.random.Generator], None], int]] = {
    "SIGKILL to a rank": (kill_a_rank, ExitCode.OUT_OF_MEMORY if oom_kills() is None else ExitCode.TEMPORARY),
    "SIGKILL to all": (kill_all, -signal.SIGKILL),
    "SIGKILL to the parent": (kill_the_parent, -signal.SIGKILL),
    "SIGTERM": (ask_to_end, ExitCode.INTERRUPTED),
}
"""How a training can be ended, and the exit code of its program then."""


def started_by(process: Programs) -> list[int]:
    """Return all processes of a training that runs, the program itself left out."""
    with suppress(FileNotFoundError):
        return [*children(process.pid), *ranks_of(process.pid)]
    return []
