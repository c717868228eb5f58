"""Runs a training program and takes the time by what it logs, the same way for everyone.

Each writes a line of JSON for each step. The line is seen within a few milliseconds, and with it the processor time
that the program and all that it started have taken.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_EVERY = 0.005


@dataclass(frozen=True)
class Step:
    """The end of a step."""

    loss: float
    seconds: float
    """Since the program was started."""
    busy: float
    """Seconds of processor time since then."""


@dataclass(frozen=True)
class Run:
    """What came of a training."""

    steps: Sequence[Step]
    seconds: float
    """Of the whole program."""
    busy: float
    """Seconds of processor time in that."""


def watch(command: Sequence[str | Path], log: Path, environ: Mapping[str, str], output: Path) -> Run:
    """Run `command`, which writes its steps to `log`; what it prints goes to `output`."""
    steps: list[Step] = []
    began, before = time.perf_counter(), _reaped()
    with output.open("wb") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, env={**os.environ, **environ})
        read = 0
        while process.poll() is None:
            time.sleep(_EVERY)
            if log.exists() and log.stat().st_size > read:
                now, busy = time.perf_counter() - began, _busy(process.pid)
                losses, read = _losses(log, read)
                steps += [Step(loss, now, busy) for loss in losses]
    now, busy = time.perf_counter() - began, _reaped() - before
    if process.returncode != 0:
        sys.exit(f"{command[0]} ended with {process.returncode}:\n{output.read_text(errors='replace')[-6000:]}")
    return Run(steps, now, busy)


def _losses(log: Path, start: int) -> tuple[list[float], int]:
    """Return the losses in the whole lines from byte `start` on, and where the next begin."""
    with log.open("rb") as file:
        file.seek(start)
        text, _, _ = file.read().rpartition(b"\n")
    if not text:
        return [], start
    lines = [json.loads(line) for line in text.splitlines()]
    return [float(line["loss"]) for line in lines if "loss" in line], start + len(text) + 1


def _busy(pid: int) -> float:
    """Return the processor time of a process, of all below it, and of those below that have ended."""
    total = 0.0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
    return total


def _reaped() -> float:
    times = os.times()
    return times.children_user + times.children_system
