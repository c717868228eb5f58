"""Removes what the marking found to be of no use: each thing by a rename, after which nobody sees it; then for good.

Killed at any moment, it leaves a volume on which every result is whole or absent; what was half removed then has a name
that the next sweep knows. Two that work at once do not hurt each other: one of them renames, the other finds nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.retention import Entry, Kind, Verdict
from tunesmith.housekeeping.inventory import REMOVED_PREFIX, last_use
from tunesmith_stages.contract import StageName
from tunesmith_stages.volume import Volume

_FIRST = (Kind.REMOVED, Kind.SET_ASIDE, Kind.ATTEMPT, Kind.CHECKPOINTS, Kind.DOWNLOAD, Kind.MATRIX, Kind.LOG)
_LAST_STAGES = list(reversed(StageName))


@dataclass(frozen=True)
class Removal:
    """What became of one thing that was to go."""

    entry: Entry
    removed: bool
    why_not: str = ""
    is_failure: bool = False
    """It should have gone, and could not be removed."""


def sweep(volume: Volume, verdicts: Iterable[Verdict], still_useless: Callable[[Entry], bool]) -> Iterator[Removal]:
    """Remove what has no use, one thing after the other, and yield what became of each.

    Args:
        volume: where.
        verdicts: of the marking.
        still_useless: asked right before a thing goes, since jobs may have come, or used it, since the marking.
    """
    for verdict in sorted((one for one in verdicts if not one.keeps), key=_order):
        entry = verdict.entry
        if entry.kind is not Kind.REMOVED and not still_useless(entry):
            yield Removal(entry, removed=False, why_not="it is needed now")
            continue
        try:
            gone = remove(volume, entry)
        except OSError as error:
            yield Removal(entry, removed=False, why_not=f"{error.strerror or error}", is_failure=True)
            continue
        yield Removal(entry, removed=gone, why_not="" if gone else "it was gone already")


def remove(volume: Volume, entry: Entry) -> bool:
    """Remove one thing; tell whether it was still there.

    Raises:
        OSError: it may not be removed, or not all of it could be.
    """
    path = volume.root / entry.path
    if entry.kind is Kind.REMOVED:
        return _delete(path)
    if path.is_symlink():  # it has taken the place of what was seen there
        return False
    if path.is_file():
        with _as_if_nothing_was_written(path.parent):
            path.unlink(missing_ok=True)
        return True
    if entry.kind is Kind.SOURCE:
        # First: whoever brings the source anew at this moment writes it again, and then the folder if that is gone.
        volume.store_manifest(path.parent.name, path.name).unlink(missing_ok=True)
    if entry.kind is Kind.CONTENT:  # by a rename, which a full disk has room for
        cleared = volume.cleared_result(StageName(entry.stage), entry.key)
        with contextlib.suppress(FileNotFoundError), _as_if_nothing_was_written(path.parent):
            cleared.with_name("result.json").rename(cleared)
    aside = _place_for(volume, entry) / f"{REMOVED_PREFIX}{secrets.token_hex(8)}"
    try:
        with _as_if_nothing_was_written(path.parent):
            path.rename(aside)
    except FileNotFoundError:
        return False
    _delete(aside)
    return True


@contextlib.contextmanager
def _as_if_nothing_was_written(folder: Path) -> Iterator[None]:
    """Give a folder its time back after the block: that something was removed from it is no use of the rest."""
    before = folder.lstat()
    yield
    with contextlib.suppress(OSError):
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def last_use_now(volume: Volume, entry: Entry) -> float:
    """Return when a thing was last written or used, as the volume says now and not as a cache remembers."""
    path = volume.root / entry.path
    with contextlib.suppress(OSError):  # opening makes an NFS client ask the server (nfs(5), close-to-open)
        os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
    beside = [path.parent] if entry.kind is Kind.CONTENT else []
    if entry.kind is Kind.SOURCE:
        beside = [volume.store_manifest(path.parent.name, path.name)]
    return max(last_use(place) for place in (path, *beside))


def _order(verdict: Verdict) -> tuple[int, int, str]:
    """Put what was made of something before it: whatever ends the sweep, nothing lacks what it was made from."""
    entry = verdict.entry
    if entry.kind in _FIRST:
        return 0, _FIRST.index(entry.kind), entry.path
    if entry.kind in {Kind.UNIT, Kind.CONTENT}:
        return 1, 2 * _LAST_STAGES.index(StageName(entry.stage)) + (entry.kind is Kind.UNIT), entry.path
    return 2, [Kind.SOURCE, Kind.TRACKING, Kind.RUN].index(entry.kind), entry.path


def _place_for(volume: Volume, entry: Entry) -> Path:
    """Return the folder in which a thing has its other name until it is deleted: one that is looked through for it."""
    path = volume.root / entry.path
    match entry.kind:
        case Kind.CONTENT:
            return path.parent.parent
        case Kind.TRACKING:
            return volume.root / "runs"
        case _:
            return path.parent


def _delete(path: Path) -> bool:
    """Delete a folder and all below it, following no link; tell whether it was there.

    What NFS keeps of files that are open somewhere (``.nfs*``) stays with its folder until the next time.
    """
    failed: list[OSError] = []

    def note(_function: object, where: str, caught: tuple[type[BaseException], BaseException, object]) -> None:
        error = caught[1]
        if not isinstance(error, OSError):
            raise error
        kept = error.errno in {errno.ENOTEMPTY, errno.EBUSY, errno.EEXIST} or Path(where).name.startswith(".nfs")
        if not isinstance(error, FileNotFoundError) and not kept:
            failed.append(error)

    try:
        path.lstat()
    except FileNotFoundError:
        return False
    shutil.rmtree(path, onerror=note)
    if failed:
        raise failed[0]
    return True
