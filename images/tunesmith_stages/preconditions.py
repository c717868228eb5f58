"""What must hold before a unit is made: the volume is there and can be written, and the inputs are what they were."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from tunesmith_stages.contract import ExitCode, Input, UnitConfig
from tunesmith_stages.failures import StageError
from tunesmith_stages.progress import Progress
from tunesmith_stages.volume import Volume

_NFS_PATIENCE = 90.0
"""Seconds that an input may be missing on NFS: for up to 60 a client believes what it knew of a folder (nfs(5))."""
_LOOK_AGAIN = 1.0
_ESCAPED = re.compile(r"\\([0-7]{3})")  # proc(5): blanks, tabs and backslashes in mountinfo
_REFUSED = (errno.EACCES, errno.EPERM)


# --- the volume ------------------------------------------------------------------------------------------------------


def require_volume(volume: Volume) -> None:
    """Check that the volume's root is there and can be looked into.

    Raises:
        StageError: it is not.
        OSError: nobody knows, because the file system does not answer.
    """
    try:
        os.scandir(volume.root).close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the volume's root {volume.root} is not a folder ({error.strerror})",
            reason="VolumeNotFound",
            hint="Name the folder, or the claim and the `storage.subPath`, that holds the job's data.",
        ) from error
    except PermissionError as error:
        raise _not_permitted("VolumeNotReadable", "read", volume.root, error) from error


def require_writable(folders: Iterable[Path]) -> None:
    """Check, by doing it, that a file can be made in each of the folders, which are made where they are missing.

    Raises:
        StageError: this user may not.
        OSError: something else is in the way.
    """
    for folder in folders:
        try:
            _try_to_write(folder)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            raise _not_permitted("VolumeNotWritable", "write to", folder, error) from error


def _try_to_write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    trial = folder / f".writable-{secrets.token_hex(4)}"
    try:
        trial.open("x").close()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # not asked here: a unit that is there needs no space
            raise
    trial.unlink(missing_ok=True)


def _not_permitted(reason: str, what: str, path: Path, error: OSError) -> StageError:
    groups = ", ".join(map(str, sorted(set(os.getgroups()) | {os.getgid()})))
    return StageError(
        ExitCode.NO_PERMISSION,
        f"the stage runs as uid {os.getuid()}, gid {os.getgid()}, groups {groups} and may not {what} {path} "
        f"({error.strerror}){_owner(path)}",
        reason=reason,
        hint="Give that user or one of these groups access to the volume, or, on a cluster, set `storage.runAsUser`, "
        "`storage.runAsGroup` or `storage.supplementalGroups` to a user or group that has it.",
    )


def _owner(path: Path) -> str:
    """Return whose the folder is that is there, in words."""
    for folder in (path, *path.parents):
        try:
            found = folder.stat()
        except OSError:
            continue
        return f"; {folder} belongs to uid {found.st_uid}, gid {found.st_gid}, with mode {found.st_mode & 0o7777:04o}"
    return ""


# --- the inputs ------------------------------------------------------------------------------------------------------


def patience_with(place: Path) -> float:
    """Return for how many seconds an input below `place` may be missing before it counts as missing."""
    return _NFS_PATIENCE if is_nfs(place) else 0.0


def require_inputs(volume: Volume, unit: UnitConfig, progress: Progress, patience: float) -> None:
    """Check that every input of a unit is on the volume and is what the unit's key was computed from.

    One that is not is waited for, up to `patience` seconds each: on NFS another machine's work may show late.

    Raises:
        StageError: one is not.
        OSError: nobody knows, because the file system does not answer.
    """
    for role, wanted in unit.inputs.items():
        if not volume.holds(wanted) and not _shows_late(volume, role, wanted, progress, patience):
            raise StageError(
                ExitCode.MISSING_INPUT,
                f"the input `{role}` of `{unit.name}` is gone from the volume, or is not what it was: "
                f"{volume.root / wanted.path} should hold what has the digest {wanted.digest}",
                reason="InputLost",
                hint="Run the job again: the stage that makes it will be repeated.",
            )
        path = volume.root / wanted.path
        volume.note_use(path.parent if path.name == "out" else path)


def _shows_late(volume: Volume, role: str, wanted: Input, progress: Progress, patience: float) -> bool:
    deadline = time.monotonic() + patience
    if patience:
        progress.note(f"waiting up to {patience:.0f} s for the input `{role}`: on NFS it may show late")
    while time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN)
        if volume.holds(wanted):
            return True
    return False


def is_nfs(place: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Return whether `place` lies on NFS, by the table of mounts (proc(5)); False where there is no such table."""
    kind = ""
    longest = -1
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), before.split()[4]))
        if place.is_relative_to(point) and len(point.parts) >= longest:  # of two at one place the later one is on top
            longest, kind = len(point.parts), after.split()[0]
    return kind in {"nfs", "nfs4"}
