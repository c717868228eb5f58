from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from support.builders import stage_config, work_of
from tunesmith_stages.contract import StageName
from tunesmith_stages.fetch.scratch import Scratch, download_folder
from tunesmith_stages.work import Work


class BrokenOffError(Exception):
    pass


def attempt(root: Path, name: str) -> Work:
    return work_of(dataclasses.replace(stage_config(root, StageName.FETCH), attempt=name))


def left_by(work: Work, content: str) -> None:
    """Leave a download that broke off."""
    with contextlib.suppress(BrokenOffError), download_folder(work) as scratch:
        (scratch.parts / "part").write_text(content)
        raise BrokenOffError


def killed(work: Work, content: str, *, host: str = "elsewhere") -> Path:
    """Leave a download as a program does that was killed on another machine."""
    with download_folder(work) as scratch:
        (scratch.parts / "part").write_text(content)
    owner = json.loads((scratch.folder / "owner.json").read_text())
    (scratch.folder / "owner.json").write_text(json.dumps({**owner, "host": host}))
    return scratch.folder


def found(scratch: Scratch) -> str:
    part = scratch.parts / "part"
    return part.read_text() if part.is_file() else ""


def test_what_an_attempt_left(tmp_path: Path) -> None:
    """A download that broke off is there for the next attempt."""
    left_by(attempt(tmp_path, "1"), "from 1")
    with download_folder(attempt(tmp_path, "2")) as scratch:
        assert found(scratch) == "from 1"


def test_two_at_once(tmp_path: Path) -> None:
    """Two attempts at once never have the same folder; of what both leave, one is kept."""
    left_by(attempt(tmp_path, "0"), "from 0")
    first, second = attempt(tmp_path, "1"), attempt(tmp_path, "2")
    with contextlib.suppress(BrokenOffError), download_folder(first) as one:
        with contextlib.suppress(BrokenOffError), download_folder(second) as two:
            assert (found(one), found(two)) == ("from 0", "")
            (two.parts / "part").write_text("from 2")
            raise BrokenOffError
        raise BrokenOffError
    with download_folder(attempt(tmp_path, "3")) as scratch:
        assert found(scratch) == "from 2"
    assert len(list(scratch.folder.parent.iterdir())) == 1


POD = "support-bot-fetch-0123abcd"
LEFT = {
    "on another machine": ("x", "2", False),
    "by an earlier pod of the same": (f"{POD}-0-abcde", f"{POD}-1-fghij", True),
    "by a pod of another job": ("other-bot-fetch-0123abcd-0-abcde", f"{POD}-1-fghij", False),
}


@pytest.mark.parametrize("name", LEFT)
def test_killed_elsewhere(tmp_path: Path, name: str) -> None:
    """What a killed program left elsewhere is taken over by the pod in its place; by others when it was long silent."""
    before, after, takes = LEFT[name]
    folder = killed(attempt(tmp_path, before), "from before")
    with download_folder(attempt(tmp_path, after)) as scratch:
        assert (found(scratch) == "from before") is takes
    if not takes:
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (0, time.time() - 3600))
        with download_folder(attempt(tmp_path, "late")) as scratch:
            assert found(scratch) == "from before"
