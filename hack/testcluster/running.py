"""Which process runs a cluster, and how to end it."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layout import Layout
from making import tell

_STOP_SECONDS = 30.0


@contextmanager
def alone(layout: Layout) -> Iterator[None]:
    """Let nobody else bring this cluster up or down meanwhile."""
    with _held(layout.lock, "another process brings this cluster up or down; waiting for it"):
        yield


@contextmanager
def using(layout: Layout) -> Iterator[None]:
    """Let nobody else use this cluster for tests meanwhile, nor make it anew."""
    with _held(layout.use, "another process runs its tests on this cluster; waiting for it"):
        yield


@contextmanager
def _held(path: Path, waiting: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(waiting)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def record(layout: Layout, pid: int) -> None:
    """Remember the process whose only child is the cluster's machine."""
    layout.machine.write_text(f"{pid} {_started(pid)}\n", encoding="utf-8")


def running(layout: Layout) -> int | None:
    """Return the id of the process that runs the cluster, which is in its network namespace; none if it is down."""
    try:
        pid, started = layout.machine.read_text(encoding="utf-8").split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _started(int(pid)) == started else None


def is_up(layout: Layout) -> bool:
    """Tell whether the cluster can be used."""
    return running(layout) is not None and layout.ready.exists()


def stop(layout: Layout) -> None:
    """End the cluster: all its processes have gone then, with its mounts and its network."""
    pid = running(layout)
    if pid is None:
        return
    for machine in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split():
        os.kill(int(machine), signal.SIGTERM)
    if not _has_ended(layout, _STOP_SECONDS):
        os.kill(pid, signal.SIGKILL)  # its child goes with it (unshare --kill-child)
        _has_ended(layout, _STOP_SECONDS)


def _has_ended(layout: Layout, seconds: float) -> bool:
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        if running(layout) is None:
            return True
        time.sleep(0.05)
    return False


def _started(pid: int) -> str:
    """Return when a process started, in the kernel's clock ticks; nothing if it has ended.

    Process ids are used again; an id together with its start time is not.
    """
    try:
        # After the name in parentheses, which may hold blanks: state is field 3, start time field 22 (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
