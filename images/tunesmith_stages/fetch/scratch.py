"""Where a download grows: a folder that outlives an attempt, so that the next one goes on where it ended.

There is one for each key. Whoever works at the key takes it for itself, by renaming it, and gives it back when it
fails. So two attempts that run at once never write to the same file: the second begins with an empty folder. What a
program left that was killed is taken over when its process is gone, when the operator has sent another one in its
place, or when nothing was written for minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tunesmith_stages.contract import FileEntry, StageName
from tunesmith_stages.making import made_for, process_of
from tunesmith_stages.volume import files_below, write_whole
from tunesmith_stages.work import Work

_ABANDONED = 600.0
"""Seconds without a write after which a download on another machine counts as dead: no hub is waited for so long."""


class Scratch:
    """A unit's download folder, while this attempt has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        """What goes into the store: whole and checked files under their paths."""
        self.read = folder / "read"
        """Files that are only read to choose others."""
        self.parts = folder / "parts"
        """Files of which the beginning is here."""

    def keep_only(self, entries: Iterable[FileEntry]) -> None:
        """Remove what lies among the files for the store and is not of this source as it is chosen now."""
        wanted = {self.files / entry.path for entry in entries}
        for path in files_below(self.files):
            if path not in wanted:
                path.unlink()


@contextlib.contextmanager
def download_folder(work: Work) -> Iterator[Scratch]:
    """Take the unit's download folder, and give it back for the next attempt if this one fails."""
    free = work.volume.download(work.unit.key)
    own = work.volume.download(work.unit.key, work.config.attempt)
    _take(free, own, work.config.attempt)
    scratch = Scratch(own)
    for folder in (scratch.files, scratch.read, scratch.parts):
        folder.mkdir(exist_ok=True)
    write_whole(own / "owner.json", json.dumps(process_of(os.getpid())))
    try:
        yield scratch
    except BaseException:
        _give_back(own, free)
        raise


def _take(free: Path, own: Path, attempt: str) -> None:
    """Make `own` of what an earlier attempt left, or of nothing."""
    free.parent.mkdir(parents=True, exist_ok=True)
    ours = made_for(StageName.FETCH, attempt)
    for left in (free, *sorted(free.parent.glob(f"{free.name}.*"))):
        theirs = made_for(StageName.FETCH, left.name.removeprefix(f"{free.name}."))
        if left == free or (ours and ours == theirs) or _is_abandoned(left):
            with contextlib.suppress(OSError):  # it is not there, or another one was faster
                left.rename(own)
                return
    own.mkdir()


def _is_abandoned(folder: Path) -> bool:
    try:
        owner = json.loads((folder / "owner.json").read_text(encoding="utf-8"))
        if owner["host"] == platform.node():
            return bool(owner != process_of(owner["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
        return _now(folder.parent) - newest > _ABANDONED
    except OSError:
        return False


def _now(folder: Path) -> float:
    """Return the time by the clock that gives files theirs, which may be a server's."""
    probe = folder / f".now-{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _give_back(own: Path, free: Path) -> None:
    try:
        own.rename(free)
    except OSError:  # somebody else has given one back already
        shutil.rmtree(own, ignore_errors=True)
