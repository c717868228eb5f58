"""One run of a job, and one maker of a unit, at a time; and nothing left running of a run that was killed.

A lock names the process that holds it and the stage program that it started. A process is known by its host, its
number and its start time, for the number alone may belong to another one by now. ``runs/<job>/lock.json`` is the lock
of a job, ``stages/<stage>/<key>.lock`` that of a unit, which two jobs may want at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from tunesmith_stages.volume import write_whole

_PATIENCE = 60
"""Seconds that a stage program has to end by itself before it is killed: more than any of them takes in order."""
_TURN = 0.02
"""Seconds between two looks whether another process has done looking."""
_LOOK_AGAIN = 1.0
"""Seconds between two looks at a lock that another process holds."""


class AlreadyRunningError(Exception):
    """Another process does this work now.

    Attributes:
        pid: its process number.
        host: the machine that it runs on.
    """

    def __init__(self, owner: Mapping[str, Any], path: Path) -> None:
        self.pid = int(owner.get("pid", 0))
        self.host = str(owner.get("host", ""))
        elsewhere = self.host != platform.node()
        there = f" on {self.host} (if that machine is gone, delete {path})" if elsewhere else ""
        super().__init__(f"the job is being run already, by process {self.pid}{there}")


class Lock:
    """A lock that this process may hold."""

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
        with _alone(self._path):
            for _ in range(3):
                if self._create():
                    return
                self._clear()
        raise AlreadyRunningError(_read(self._path).get("run", {}), self._path)

    def _create(self) -> bool:
        """Put the lock there, whole from its first moment on, unless one is there."""
        # At random: in containers on two machines, programs have the same process number.
        whole = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
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
            raise AlreadyRunningError(owner, self._path)
        if child and _alive(child):
            end_process(child["pid"])
        aside = self._path.with_name(f"{self._path.name}.stale-{secrets.token_hex(4)}")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return
        if _read(aside) != found:  # somebody else cleared the old one and took the lock meanwhile: it is theirs
            with contextlib.suppress(FileExistsError):
                os.link(aside, self._path)
        aside.unlink()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process of this machine at a time look at a lock and clear it.

    Between the two, another one could clear the same lock and take it, and a third one take it beside that. Only
    processes of one machine clear each other's locks, so a socket without a file keeps them apart (unix(7), abstract
    sockets): it is gone with its process, however that ends.
    """
    name = b"\0tunesmith-" + hashlib.sha256(bytes(path.resolve())).hexdigest().encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as turn:
        while True:
            try:
                turn.bind(name)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            time.sleep(_TURN)
        yield


@contextlib.contextmanager
def hold(path: Path, told: Callable[[AlreadyRunningError], None] | None = None) -> Iterator[Lock]:
    """Hold the lock at `path`. With `told`, wait for a living process that holds it, after telling so once.

    Raises:
        AlreadyRunningError: a living process holds it, and there is no `told`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path)
    while True:
        try:
            lock.take()
            break
        except AlreadyRunningError as error:
            if told is None:
                raise
            told(error)
            told = _say_nothing
            time.sleep(_LOOK_AGAIN)
    try:
        yield lock
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Tell whether the lock at `path` is held by a process that lives, or that nobody here can look at."""
    found = _read(path)
    return any(_alive(one) for one in (found.get("run"), found.get("child")) if one)


def _say_nothing(_error: AlreadyRunningError) -> None:
    """Take note of what was told before."""


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
    return {"host": platform.node(), "pid": pid, "started": _started(pid)}


def _started(pid: int) -> float:
    """Return when a process started: on Linux by the clock that nobody can set, in ticks since boot (proc(5))."""
    try:
        return float(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except OSError:
        return psutil.Process(pid).create_time()


def _alive(identity: dict[str, Any]) -> bool:
    try:
        if identity["host"] != platform.node():
            return True  # nobody here can tell
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
