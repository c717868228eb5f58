"""The cgroup of a cluster's pods, in every hierarchy of the machine (one with cgroup v2, about ten with v1)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

_SECONDS = 10.0


def make_cgroup(path: str) -> None:
    """Make a cgroup in every hierarchy; the kubelet wants it to be there."""
    for folder in _folders(path):
        folder.mkdir(exist_ok=True)


def remove_cgroup(path: str) -> None:
    """Remove a cgroup with all below it. The processes in it have ended, or do so just now.

    Raises:
        OSError: some process stays in it.
    """
    last = time.monotonic() + _SECONDS
    for top in _folders(path):
        for folder, _, _ in os.walk(top, topdown=False):
            _remove(Path(folder), last)


def _remove(folder: Path, last: float) -> None:
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > last:
                raise
            time.sleep(0.05)
        else:
            return


def _folders(path: str) -> Iterator[Path]:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, kind, *_ = line.split()
        if kind in {"cgroup", "cgroup2"}:
            yield Path(mount) / path.lstrip("/")
