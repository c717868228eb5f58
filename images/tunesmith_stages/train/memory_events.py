"""Whether the kernel ended a process because memory ran out: its own count for this container. Standard library only.

A process that the kernel ends for that reason gets SIGKILL, as one does that somebody kills.
"""

from __future__ import annotations

from pathlib import Path

from tunesmith_stages.train.control_group import OWN, ROOT, group_folders


def oom_kills(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return how many processes of this control group the kernel ended for want of memory; None: it is not told.

    It is ``oom_kill`` in ``memory.events`` (https://docs.kernel.org/admin-guide/cgroup-v2.html, "memory.events"), or,
    in version 1 of control groups, in ``memory.oom_control``.
    """
    for version, folder in group_folders("memory", root, own):
        file = "memory.events" if version == 2 else "memory.oom_control"
        try:
            lines = (folder / file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            name, _, number = line.partition(" ")
            if name == "oom_kill" and number.isdecimal():
                return int(number)
    return None


class KernelKills:
    """Whether the kernel ended a process of this container for want of memory since this was made."""

    def __init__(self) -> None:
        self._before = oom_kills()

    def happened(self) -> bool | None:
        """Return whether it did; None: nobody can tell."""
        now = oom_kills()
        return None if now is None or self._before is None else now > self._before
