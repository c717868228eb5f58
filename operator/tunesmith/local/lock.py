"""One run of a job at a time on a machine, and nothing left running of a run that was killed.

``runs/<job>/lock.json`` names the process that runs the job and the stage program that it started. A process is
known by its number and its start time, for the number alone may belong to another one by now.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tunesmith_stages.volume import write_whole

_PATIENCE = 15
"""Seconds that a stage program has to end by itself before it is killed."""


class AlreadyRunningError(Exception):
    """Another process runs this job now.

    Attributes:
        pid: its process number.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(f"the job is being run already, by process {pid}")
        self.pid = pid


class Lock:
    """The lock of one job, held by this process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = _identify(os.getpid())

    def note_child(self, pid: int) -> None:
        """Remember the stage program that runs now, so that whoever comes after a kill can end it."""
        write_whole(self._path, json.dumps({"run": self._own, "child": _identify(pid)}))

    def take(self) -> None:
        """Take the lock; a lock of a run that is gone is cleared, and what it left running is ended.

        Raises:
            AlreadyRunningError: a living process holds it.
        """
        for _ in range(3):
            if self._create():
                return
            self._clear()
        raise AlreadyRunningError(_read(self._path).get("run", {}).get("pid", 0))

    def _create(self) -> bool:
        """Put the lock there, whole from its first moment on, unless one is there."""
        whole = self._path.with_name(f"{self._path.name}.{self._own['pid']}")
        write_whole(whole, json.dumps({"run": self._own, "child": None}))
        try:
            os.link(whole, self._path)
        except FileExistsError:
            return False
        finally:
            whole.unlink()
        return True

    def release(self) -> None:
        """Give the lock back."""
        if _read(self._path).get("run") == self._own:
            self._path.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Remove the lock of a run that is gone, after ending what it left running."""
        found = _read(self._path)
        owner, child = found.get("run"), found.get("child")
        if owner and _alive(owner):
            raise AlreadyRunningError(owner["pid"])
        if child and _alive(child):
            end_process(child["pid"])
        aside = self._path.with_name(f"{self._path.name}.stale-{self._own['pid']}")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return
        if _read(aside) != found:  # somebody else cleared the old one and took the lock meanwhile: it is theirs
            with contextlib.suppress(FileExistsError):
                os.link(aside, self._path)
        aside.unlink()


@contextlib.contextmanager
def hold(run: Path) -> Iterator[Lock]:
    """Hold the lock of a job's run folder.

    Raises:
        AlreadyRunningError: a living process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = Lock(run / "lock.json")
    lock.take()
    try:
        yield lock
    finally:
        lock.release()


def end_process(pid: int, patience: float = _PATIENCE) -> None:
    """End a stage program and everything below it: asked first, killed after `patience` seconds."""
    try:
        parent = psutil.Process(pid)
        below = parent.children(recursive=True)
        parent.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs([parent], timeout=patience)
    _, alive = psutil.wait_procs([*alive, *below], timeout=1)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def _identify(pid: int) -> dict[str, Any]:
    return {"pid": pid, "started": _started(pid)}


def _started(pid: int) -> float:
    """Return when a process started: on Linux by the clock that nobody can set, in ticks since boot (proc(5))."""
    try:
        return float(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except OSError:
        return psutil.Process(pid).create_time()


def _alive(identity: dict[str, Any]) -> bool:
    try:
        pid, started = identity["pid"], identity["started"]
        return _started(pid) == started and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, KeyError, TypeError):
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
