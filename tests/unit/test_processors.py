from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tunesmith_stages.processors import usable_processors, usable_threads

V2 = "proc/self/cgroup"
CASES: dict[str, tuple[Mapping[str, str], int]] = {
    "no control groups": ({}, 8),
    "no limit": ({V2: "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 8),
    "a pod's limit, seen from inside": ({V2: "0::/", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
    "a limit of a group above": (
        {V2: "0::/pods/one", "sys/fs/cgroup/pods/cpu.max": "200000 100000", "sys/fs/cgroup/pods/one/cpu.max": "max 1"},
        2,
    ),
    "the lowest of two limits": (
        {
            V2: "0::/pods/one",
            "sys/fs/cgroup/pods/cpu.max": "500000 100000",
            "sys/fs/cgroup/pods/one/cpu.max": "400000 100000",
        },
        4,
    ),
    "less than a processor": ({V2: "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
    "a broken processor": ({V2: "0::/", "sys/fs/cgroup/cpu.max": "250000 100000"}, 2),
    "more than there are": ({V2: "0::/", "sys/fs/cgroup/cpu.max": "6400000 100000"}, 8),
    "version 1": (
        {
            V2: "5:cpu,cpuacct:/kubepods/pod\n3:memory:/kubepods",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
        2,
    ),
    "version 1 without a limit": (
        {
            V2: "5:cpu,cpuacct:/",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
        8,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_processors(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many processes are started as there are processors that may be kept busy, whichever way that is limited."""
    files, expected = CASES[name]
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content + "\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))
    assert usable_processors(tmp_path) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, 3), ("", 3), ("2", 2), ("2,4", 2), ("64", 3), ("0", 3), ("many", 3)],
)
def test_threads(given: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program gets as many threads as OpenMP's variable says, and never more than there are processors for them."""
    (tmp_path / V2).parent.mkdir(parents=True)
    (tmp_path / V2).write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("300000 100000\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert usable_threads(tmp_path) == expected
