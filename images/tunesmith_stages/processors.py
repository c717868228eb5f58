"""How much may compute at once: what this process may run on, by affinity, control group and OpenMP's variable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def usable_processors(root: Path = Path("/")) -> int:
    """Return the number of processors that this process may keep busy, at least 1.

    A container's limit of CPU time is a quota of its control group (cgroups(7)), which shows in neither the number of
    processors nor the affinity. Of a broken processor only the whole part counts.

    Args:
        root: where /proc and /sys lie.
    """
    shares = [quota / period for quota, period in _quotas(root) if quota > 0 and period > 0]
    return max(1, int(min([len(os.sched_getaffinity(0)), *shares])))


def usable_threads(root: Path = Path("/")) -> int:
    """Return with how many threads a program that is started should compute: as many as `usable_processors`.

    Where ``OMP_NUM_THREADS`` gives a lower number, that holds for programs that do not ask it themselves, too: for
    llama.cpp's, whose threads wait for each other by spinning (OpenMP API 5.2, 21.1.2: a list's first number counts).

    Args:
        root: where /proc and /sys lie.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    processors = usable_processors(root)
    return min(processors, int(first)) if first.isdecimal() and int(first) else processors


def _quotas(root: Path) -> Iterator[tuple[float, float]]:
    """Yield microseconds of CPU time and the period in which they may be used, of every group that we are in."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: one tree for all
            for folder in _upwards(root / "sys/fs/cgroup", path):
                yield from _pair(_words(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for folder in _upwards(root / "sys/fs/cgroup" / controllers, path):
                yield from _pair([*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")])


def _upwards(tree: Path, path: str) -> Iterator[Path]:
    """Yield a group's folder and those above it. In a container the own group may be shown as the root of the tree."""
    place = tree / path.lstrip("/")
    yield place
    while place != tree and tree in place.parents:
        place = place.parent
        yield place


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _pair(words: list[str]) -> Iterator[tuple[float, float]]:
    """Yield quota and period; a quota of ``max`` (version 2) or -1 (version 1) means that there is none."""
    if len(words) == 2 and words[0] not in {"max", "-1"}:
        yield float(words[0]), float(words[1])
