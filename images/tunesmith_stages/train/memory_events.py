"""Whether the kernel ended a process because memory ran out: its own count for this container. Standard library only.

A process that the kernel ends for that reason gets SIGKILL, as one does that somebody kills.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def oom_kills(root: Path = _ROOT, own: Path = _OWN) -> int | None:
    """Return how many processes of this control group the kernel ended for want of memory; None: it is not told.

    It is ``oom_kill`` in ``memory.events`` (https://docs.kernel.org/admin-guide/cgroup-v2.html, "memory.events"), or,
    in version 1 of control groups, in ``memory.oom_control``.
    """
    for file in _files(root, own):
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            name, _, number = line.partition(" ")
            if name == "oom_kill" and number.isdecimal():
                return int(number)
    return None


def _files(root: Path, own: Path) -> Iterator[Path]:
    """Yield where it may stand; in a container the group's own folder is mounted in place of the root."""
    try:
        groups = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return
    for number, controllers, path in (group for group in groups if len(group) == 3):
        below = path.lstrip("/")
        if "memory" in controllers.split(","):
            yield root / "memory" / below / "memory.oom_control"
            yield root / "memory" / "memory.oom_control"
        elif number == "0":
            yield root / below / "memory.events"
            yield root / "memory.events"


class KernelKills:
    """Whether the kernel ended a process of this container for want of memory since this was made."""

    def __init__(self) -> None:
        self._before = oom_kills()

    def happened(self) -> bool | None:
        """Return whether it did; None: nobody can tell."""
        now = oom_kills()
        return None if now is None or self._before is None else now > self._before
