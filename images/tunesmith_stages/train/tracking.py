"""The training's side of experiment tracking: starts the process that follows it, hears what it says, and ends it.

The process is :mod:`tunesmith_stages.track`. Nothing that becomes of it reaches the training: it is waited for at the
end alone, and not for long.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from tunesmith_stages.failures import InterruptedStage
from tunesmith_stages.track.asked import Asked, Ended, TrackerType
from tunesmith_stages.work import Work

log = logging.getLogger(__name__)

_SECONDS = {Ended.WELL: 30.0, Ended.FAILED: 10.0, Ended.INTERRUPTED: 3.0}
"""How long the process may take to pass on the rest. Who is interrupted has other things to save."""
_POLL_SECONDS = 0.05


@contextmanager
def tracked(work: Work) -> Iterator[Tracking]:
    """Have a training followed while the block runs, if its job wants that; the process is gone when the block ends."""
    tracking = Tracking(work.progress.note)
    asked = work.runtime.get("tracking")
    if asked:
        tracking.begin(_asked(work, asked))
    ended = Ended.FAILED
    try:
        yield tracking
        ended = Ended.WELL
    except (InterruptedStage, KeyboardInterrupt):
        ended = Ended.INTERRUPTED
        raise
    finally:
        tracking.end(ended, _SECONDS[ended])


def _asked(work: Work, runtime: Mapping[str, Any]) -> Asked:
    inputs = {role: work.unit.inputs[role].digest for role in ("base", "prepared")}
    return Asked(
        parent=os.getpid(),
        type=TrackerType(runtime["type"]),
        url=runtime.get("url", ""),
        project=runtime["project"],
        name=work.config.job,
        params=runtime["params"],
        tags={
            "key": work.unit.key,
            "model": f"{runtime['model']} ({inputs['base']})",
            "data": f"{runtime['data']} ({inputs['prepared']})",
        },
        metrics=work.logs / "metrics.jsonl",
        folder=work.volume.tracking(work.config.job, work.unit.key),
        log=work.logs / "tracking.log",
    )


class Tracking:
    """The process that follows a training; none, before :meth:`begin`."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._tell = note
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""

    def _note(self, text: str) -> None:
        with suppress(OSError):  # a volume that takes no note is told of by those whose work needs it
            self._tell(text)

    def begin(self, asked: Asked) -> None:
        """Start the process."""
        try:
            with asked.log.open("ab") as log_file:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tunesmith_stages.track", asked.to_json()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log_file,
                    start_new_session=True,  # Ctrl-C in a terminal is not for it
                )
        except OSError as error:
            self._note(f"tracking: it cannot be started ({error}); the training goes on without")
            return
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        os.set_blocking(self._process.stdout.fileno(), False)

    def hear(self) -> None:
        """Pass on what the process has to say; that it has died, once."""
        if self._process is None:
            return
        gone = self._process.poll() is not None
        self._pass_on()
        if gone:
            code, self._process = self._process.returncode, None
            if code:
                self._note(
                    f"tracking: its process ended (exit code {code}); the training goes on without, see tracking.log"
                )

    def _pass_on(self) -> None:
        assert self._process is not None  # noqa: S101 - callers have looked
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        with suppress(BlockingIOError):  # there is no more for now
            while part := os.read(self._process.stdout.fileno(), 1 << 16):
                self._heard += part
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                self._note(json.loads(line)["note"])

    def end(self, ended: Ended, seconds: float) -> None:
        """Tell the process how the training ended and give it `seconds`; then it is killed, and what it started.

        Who is asked to end meanwhile no longer waits, and goes on: what the training came to stands already.
        """
        process = self._process
        if process is None:
            return
        below = _processes_below(process.pid)
        until = time.monotonic() + seconds
        with suppress(OSError):  # it has died
            assert process.stdin is not None  # noqa: S101 - it is a pipe
            process.stdin.write(json.dumps({"ended": ended}).encode() + b"\n")
            process.stdin.close()
        try:
            while self._process is not None and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
                self.hear()
            if self._process is not None:
                self._note(
                    f"tracking: the tracker did not take everything within {seconds:.0f} s; all of it stays in "
                    "metrics.jsonl"
                )
        except InterruptedStage:
            self._note("tracking: asked to end; the tracker may not have everything, all of it stays in metrics.jsonl")
        finally:
            self._process = None
            _kill(process, below)


def _processes_below(pid: int) -> list[psutil.Process]:
    """Return what a process has started: W&B's library has a program of its own, in a session of its own."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def _kill(process: subprocess.Popen[bytes], below: list[psutil.Process]) -> None:
    for other in {*below, *_processes_below(process.pid)}:
        with suppress(psutil.Error):
            other.kill()
    process.kill()
    process.wait()
