"""The one module that knows where things lie on a volume, and how they get there whole.

::

    store/models/<digest>/  store/datasets/<digest>/   sources, written once
    stages/<stage>/<key>/                              one finished unit of work:
        stage.json  out/  logs/  progress.jsonl  result.json
    stages/<stage>/<key>.<attempt>/                    the same, while it is being made or after it failed
    stages/train/<key>.checkpoints/                    what an interrupted training goes on from
    runs/<job>/                                        references: which units make up this job

A unit is made in its attempt's folder and published by renaming that folder, so ``<key>/`` is complete or absent.
Used by the stage programs and by the edges that start them; standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from tunesmith_stages.contract import FileEntry, StageName, StageResult

_CHUNK = 4 * 1024 * 1024


class UnsafePathError(ValueError):
    """A path given by a user leads, or could lead, out of the volume."""


class Volume:
    """The folder in which sources, results and runs lie."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def unit(self, stage: StageName, key: str) -> Path:
        """Folder of a finished unit of work."""
        return self.root / "stages" / stage / key

    def attempt(self, stage: StageName, key: str, attempt: str) -> Path:
        """Folder of one try at a unit of work."""
        return self.root / "stages" / stage / f"{key}.{attempt}"

    def attempts(self, stage: StageName, key: str) -> list[Path]:
        """Folders of every try at a unit of work that was not published."""
        folder = self.root / "stages" / stage
        return sorted(path for path in folder.glob(f"{key}.*") if path.is_dir() and path.suffix != ".checkpoints")

    def unit_lock(self, stage: StageName, key: str) -> Path:
        """File that says who makes a unit now."""
        return self.root / "stages" / stage / f"{key}.lock"

    def checkpoints(self, key: str) -> Path:
        """Folder of the checkpoints of a training, shared by its attempts."""
        return self.root / "stages" / StageName.TRAIN / f"{key}.checkpoints"

    def store(self, kind: str, digest: str) -> Path:
        """Folder of a source; `kind` is ``models`` or ``datasets``."""
        return self.root / "store" / kind / digest

    def run(self, job: str) -> Path:
        """Folder of one job: references only."""
        return self.root / "runs" / job

    def relative(self, path: Path) -> str:
        """Return `path` relative to the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def resolve(self, given: str) -> Path:
        """Return the place that a user's path names, with every symbolic link followed.

        Raises:
            UnsafePathError: it is absolute, holds ``..``, or a link on it leads out of the volume.
        """
        pure = PurePosixPath(given)
        if not given or "\0" in given or pure.is_absolute() or ".." in pure.parts:
            raise UnsafePathError(f"{given!r} must be relative to the volume's root and must not contain '..'")
        try:
            path = (self.root / pure).resolve()
            # Python 3.13 leaves links that lead round in a circle as they are. (pathlib's test raises on long names.)
            circle = os.path.islink(path)  # noqa: PTH114
        except RuntimeError:  # earlier ones raise this
            circle = True
        if circle:
            raise UnsafePathError(f"{given!r} is a symbolic link that leads back to itself")
        if not path.is_relative_to(self.root):
            raise UnsafePathError(f"{given!r} leads out of the volume, to {path}")
        return path

    def result(self, stage: StageName, key: str) -> StageResult | None:
        """Return the result of a finished unit of work, or None if there is none that can be used.

        A result counts only if it is readable, belongs to `key`, and every file that it lists is there in its size.
        """
        try:
            result = StageResult.from_json((self.unit(stage, key) / "result.json").read_text("utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if result.stage != stage or result.key != key:
            return None
        folder = self.root / result.path
        for entry in result.files:
            try:
                if (folder / entry.path).stat().st_size != entry.size:
                    return None
            except OSError:
                return None
        return result


# --- files that are whole --------------------------------------------------------------------------------------------


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the regular files below `folder` in a fixed order; NFS's ``.nfs*`` leftovers are passed over."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".nfs"):
            yield path


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Return the sha256 of a file's content; `advance` is told the bytes read, chunk by chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if advance is not None:
                advance(len(chunk))
    return digest.hexdigest()


def manifest_of(folder: Path, advance: Callable[[int], None] | None = None) -> tuple[FileEntry, ...]:
    """Return an entry for every file below `folder`, each forced to disk first."""
    entries = []
    for path in files_below(folder):
        sync(path)
        entries.append(
            FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_of(path, advance)),
        )
    return tuple(entries)


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems have no fsync for folders
            raise
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that readers see the old content or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial-{_token()}")
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _token() -> str:
    """Return a name that nobody else has: in containers every program has the same process number."""
    return secrets.token_hex(4)


def publish(made: Path, final: Path, is_valid: Callable[[], bool]) -> bool:
    """Rename the finished folder `made` to `final`, and say whether it was ours that got there.

    If `final` is there already and `is_valid()`, somebody else was first with the same work: theirs stays and ours
    is removed. If it is there and not valid, it is set aside under ``<name>.broken-<random>``.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(3):
        try:
            made.rename(final)
        except FileNotFoundError:
            if is_valid():  # NFS: the rename took effect, its answer was lost and the client repeated it
                return True
            raise
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            if is_valid():
                shutil.rmtree(made, ignore_errors=True)
                return False
            with contextlib.suppress(FileNotFoundError):  # somebody else did it at the same moment
                final.rename(final.with_name(f"{final.name}.broken-{_token()}"))
        else:
            sync(final.parent)
            return True
    raise OSError(errno.EEXIST, "something keeps appearing there", str(final))
