from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.workers import in_order
from tunesmith_stages.program import StageError, read_config


def test_results_are_in_order() -> None:
    """Two processes give the results in the tasks' order, more tasks than they get at once."""
    assert list(in_order(range(100), math.sqrt, 2)) == [math.sqrt(number) for number in range(100)]


def test_large_tasks_and_results_pass() -> None:
    """Neither side waits for the other with a full pipe: a task and its result are larger than one holds."""
    assert sum(map(len, in_order([bytes(1 << 20)] * 30, bytes, 2))) == 30 << 20


def test_few_tasks_are_done_here() -> None:
    """For a small dataset no process is started: it would take longer than the work."""
    assert set(in_order(["x"] * 4, _own_process, 2)) == {os.getpid()}


def _own_process(_: str) -> int:
    return os.getpid()


def test_tasks_are_read_as_they_are_needed() -> None:
    """However many tasks there are, few are under way: memory does not grow with the data."""
    read = 0

    def tasks() -> Iterator[int]:
        nonlocal read
        for number in range(1000):
            read += 1
            yield number

    with closing(in_order(tasks(), math.sqrt, 2)) as results:
        next(results)
        assert read < 40


@pytest.mark.parametrize("processes", [1, 2])
def test_first_error_is_raised(processes: int) -> None:
    """The error is that of the first task in order, with all its words, also if reading fails behind it."""

    def tasks() -> Iterator[Path]:
        yield from [Path("/dev/null")] * 40
        raise StageError(ExitCode.BAD_DATA, "the file breaks off")

    with pytest.raises(StageError, match="/dev/null: JSONDecodeError") as caught:
        list(in_order(tasks(), read_config, processes))
    assert caught.value.code is ExitCode.BAD_CONFIG


def test_error_of_reading_comes_after_what_was_read() -> None:
    """All that was read before a file breaks off is worked through first."""

    def tasks() -> Iterator[int]:
        yield from range(40)
        raise StageError(ExitCode.BAD_DATA, "the file breaks off")

    results = in_order(tasks(), math.sqrt, 2)
    assert [next(results) for _ in range(40)] == [math.sqrt(number) for number in range(40)]
    with pytest.raises(StageError, match="breaks off"):
        next(results)


def test_killed_process_is_told() -> None:
    """A process that the kernel kills ends the stage with the likely cause, not in silence or for ever."""
    with pytest.raises(StageError, match="SIGKILL") as caught:
        list(in_order([0] * 30 + [signal.SIGKILL] + [0] * 30, signal.raise_signal, 2))
    assert caught.value.code is ExitCode.OUT_OF_MEMORY
    assert "memory" in caught.value.hint


def test_processes_stop_as_they_are_told() -> None:
    """A signal ends a process as by default: a handler of the stage's, which would go on there, is not for it."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(StageError, match="SIGTERM"):
            list(in_order([0] * 30 + [signal.SIGTERM] + [0] * 30, _raised, 2))
    finally:
        signal.signal(signal.SIGTERM, before)


def _raised(number: int) -> None:
    if number:
        os.kill(os.getpid(), number)
        time.sleep(60)


def test_processes_know_what_was_made_before() -> None:
    """What the stage has read is there in each process, though it cannot be pickled."""
    lock = threading.Lock()
    with lock:
        assert all(in_order(range(60), lambda _: lock.locked(), 2))


def test_processes_end_with_the_reader() -> None:
    """When the stage is stopped in the middle of something long, its processes are gone at once."""
    results = in_order([0.0] * 20 + [600.0] * 20, time.sleep, 2)
    next(results)
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 5
