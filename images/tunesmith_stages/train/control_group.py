"""What the kernel's control group of this container says of its limits. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def group_folders(controller: str, root: Path = ROOT, own: Path = OWN) -> Iterator[tuple[int, Path]]:
    """Yield the version of control groups and where the files of this one's `controller` may lie.

    In a container the group's own folder is mounted in place of the root.
    """
    try:
        groups = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return
    for number, controllers, path in (group for group in groups if len(group) == 3):
        below = path.lstrip("/")
        if controller in controllers.split(","):
            yield 1, root / controller / below
            yield 1, root / controller
        elif number == "0":
            yield 2, root / below
            yield 2, root


def cpu_limit(root: Path = ROOT, own: Path = OWN) -> float:
    """Return how many cores' time the container may use; infinity: it has no limit, or none that is told.

    It is ``cpu.max`` (https://docs.kernel.org/admin-guide/cgroup-v2.html, "cpu.max"), microseconds in each period of so
    many, or, in version 1 of control groups, ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``.
    """
    limits = [_cores(*_quota(version, folder)) for version, folder in group_folders("cpu", root, own)]
    return min(limits, default=math.inf)


def _quota(version: int, folder: Path) -> tuple[str, str]:
    """Return the time and the period as they are written; empty where they are not."""
    names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        time, period = " ".join((folder / name).read_text(encoding="utf-8") for name in names).split()
    except (OSError, ValueError):
        return "", ""
    return time, period


def _cores(time: str, period: str) -> float:
    """Return the time over the period; without a limit the former is ``max``, or -1 in version 1."""
    if not (time.isdecimal() and period.isdecimal() and int(period)):
        return math.inf
    return int(time) / int(period)
