"""The kernel's count of processes that it ended for want of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.control_groups import control_group
from tunesmith_stages.train.memory_events import oom_kills

CASES: dict[str, tuple[str, dict[str, str], int | None]] = {
    "version 2": ("0::/pods/a\n", {"pods/a/memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"}, 2),
    "version 2 in a container": ("0::/\n", {"memory.events": "oom_kill 1\n"}, 1),
    "version 1": (
        "4:memory:/pods/a\n0::/\n",
        {"memory/pods/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"},
        4,
    ),
    "version 1 in a container": ("4:cpu,memory:/pods/a\n", {"memory/memory.oom_control": "oom_kill 5\n"}, 5),
    "a kernel that does not count": ("4:memory:/\n", {"memory/memory.oom_control": "oom_kill_disable 0\n"}, None),
    "nothing": ("", {}, None),
    "no control groups": ("0::/\n", {}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_read_where_it_stands(tmp_path: Path, case: str) -> None:
    """Both versions of control groups tell it, seen from the machine or from a container; else nothing is claimed."""
    own, files, expected = CASES[case]
    assert oom_kills(*control_group(tmp_path, own, files)) == expected


def test_nowhere_to_look(tmp_path: Path) -> None:
    """Where there is no such thing, nothing is claimed."""
    assert oom_kills(tmp_path / "root", tmp_path / "own") is None
