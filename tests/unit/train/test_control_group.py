"""How many cores' time the container may use."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from support.control_groups import control_group
from tunesmith_stages.train.control_group import cpu_limit

V1 = "cpu/pods/a/cpu.cfs_quota_us", "cpu/pods/a/cpu.cfs_period_us"
CASES: dict[str, tuple[str, dict[str, str], float]] = {
    "version 2": ("0::/pods/a\n", {"pods/a/cpu.max": "1600000 100000\n"}, 16.0),
    "version 2 in a container": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "version 2, the container within a limit": (
        "0::/pods/a\n",
        {"pods/a/cpu.max": "max 100000\n", "cpu.max": "400000 100000\n"},
        4.0,
    ),
    "version 2 without a limit": ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
    "version 1": ("4:cpu,cpuacct:/pods/a\n0::/\n", {V1[0]: "200000\n", V1[1]: "100000\n"}, 2.0),
    "version 1 in a container": (
        "4:cpu,cpuacct:/pods/a\n",
        {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        0.5,
    ),
    "version 1 without a limit": ("4:cpu,cpuacct:/pods/a\n", {V1[0]: "-1\n", V1[1]: "100000\n"}, math.inf),
    "half of it": ("4:cpu,cpuacct:/pods/a\n", {V1[0]: "200000\n"}, math.inf),
    "nonsense": ("0::/\n", {"cpu.max": "a lot\n"}, math.inf),
    "no control groups": ("0::/\n", {}, math.inf),
    "nothing": ("", {}, math.inf),
}


@pytest.mark.parametrize("case", CASES)
def test_the_limit_is_read_where_it_stands(tmp_path: Path, case: str) -> None:
    """Both versions of control groups tell it, seen from the machine or from a container; else there is none."""
    own, files, expected = CASES[case]
    assert cpu_limit(*control_group(tmp_path, own, files)) == expected


def test_nowhere_to_look(tmp_path: Path) -> None:
    """Where there is no such thing, there is no limit."""
    assert cpu_limit(tmp_path / "root", tmp_path / "own") == math.inf
