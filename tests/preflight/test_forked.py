"""Work in forks of a process that has torch and transformers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import InterruptedStage, StageError
from tunesmith_stages.rehearse.forked import run_forked

pytestmark = pytest.mark.e2e


def _speak(_task: Path) -> int:
    print("said by Python")
    os.write(2, b"said by a library\n")
    return 0


def _fail(_task: Path) -> int:
    print("the reason")
    return 3


def _raise(_task: Path) -> int:
    raise ValueError("what went wrong")


def _die(_task: Path) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def _sleep(pid_file: Path) -> int:
    pid_file.write_text(str(os.getpid()))
    time.sleep(60)
    return 0


def _compute(_task: Path) -> int:
    import torch

    numbers = torch.ones(1000, 1000)
    return int((numbers @ numbers).sum() != 1e9)


def test_output_of_a_fork_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What a fork prints goes to its log, whoever prints it, and nowhere else."""
    run_forked(_speak, tmp_path, tmp_path / "log", what="x")
    text = (tmp_path / "log").read_text()
    assert "said by Python\n" in text
    assert "said by a library\n" in text
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("main", "code", "says"),
    [
        pytest.param(_fail, ExitCode.INTERNAL, "(exit code 3):\nthe reason", id="exit code"),
        pytest.param(_raise, ExitCode.INTERNAL, "ValueError: what went wrong", id="exception"),
        pytest.param(_die, ExitCode.OUT_OF_MEMORY, "(exit code -9)", id="killed"),
    ],
)
def test_fork_fails_as_a_tool_does(tmp_path: Path, main: Callable[[Path], int], code: ExitCode, says: str) -> None:
    """A fork that fails is told of as a tool is, with the end of its log."""
    with pytest.raises(StageError) as caught:
        run_forked(main, tmp_path, tmp_path / "log", what="the work")
    assert caught.value.code is code
    assert "the work failed" in caught.value.message
    assert says in caught.value.message


def test_fork_is_watched_and_ends_with_the_wait(tmp_path: Path) -> None:
    """Progress is looked at while a fork works; if that is interrupted, the fork is not left behind."""
    pid_file = tmp_path / "pid"

    def watch() -> None:
        if pid_file.is_file() and pid_file.read_text():
            raise InterruptedStage("stop")

    with pytest.raises(InterruptedStage):
        run_forked(_sleep, pid_file, tmp_path / "log", what="x", watch=watch)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_fork_can_compute_though_this_process_has(tmp_path: Path) -> None:
    """A fork of a process that has computed waits for ever for the threads that it had: it is not forked from that."""
    import torch

    assert (torch.ones(1000, 1000) @ torch.ones(1000, 1000)).sum() == 1e9
    started = time.monotonic()

    def watch() -> None:
        assert time.monotonic() - started < 300

    run_forked(_compute, tmp_path, tmp_path / "log", what="x", watch=watch)
