"""The one module that knows where things lie on a volume, and how they get there whole.

::

    store/models/<digest>/  store/datasets/<digest>/   sources, written once
    store/downloads/<key>[.<attempt>]/                 what came of one so far, with the attempt that is at it now
    stages/<stage>/<key>/                              one finished unit of work:
        stage.json  out/  logs/  progress.jsonl  result.json
        cleared.json                                   instead of out/ and result.json, if its content was removed
    stages/<stage>/<key>.<attempt>/                    the same, while it is being made or after it failed
    stages/train/<key>.checkpoints/                    what an interrupted training goes on from
    stages/quantize/<key>.imatrix/                     an importance matrix, by what it is computed from
    stages/rehearse/<key>.passed.json                  checks that have passed, by what they depend on
    stages/identity                                    tells this volume from others
    stages/<stage>/.removed-*  store/*/.removed-*      what `tunesmith gc` is just deleting; runs/ may have it too
    runs/<job>/                                        references: which units make up this job
    runs/<job>/logs/<stage>.<attempt>.log              what a stage program printed
    runs/<job>/attempts/<stage>.json                   the newest attempt at a stage, and how it ended
    runs/<job>/report.html                             all that people may want to know of the job
    runs/<job>/tracking/<key>/                         what is kept for an experiment tracker; 16 digits of the key

A unit is made in its attempt's folder and published by renaming that folder, so ``<key>/`` is complete or absent.
Used by the stage programs and by the edges that start them; standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from tunesmith_stages.contract import FileEntry, Input, StageName, StageResult, digest_of

_CHUNK = 4 * 1024 * 1024
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


class UnsafePathError(ValueError):
    """A path given by a user leads, or could lead, out of the volume."""


class Volume:
    """The folder in which sources, results and runs lie."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def units(self, stage: StageName) -> Path:
        """Folder of all units of a stage, and of the tries at them."""
        return self.root / "stages" / stage

    def unit(self, stage: StageName, key: str) -> Path:
        """Folder of a finished unit of work."""
        return self.units(stage) / key

    def cleared_result(self, stage: StageName, key: str) -> Path:
        """File that a clean-up makes of ``result.json`` before it removes a unit's content; by it, no unit is there."""
        return self.unit(stage, key) / "cleared.json"

    def attempt(self, stage: StageName, key: str, attempt: str) -> Path:
        """Folder of one try at a unit of work."""
        return self.units(stage) / f"{key}.{attempt}"

    def attempts(self, stage: StageName, key: str) -> list[Path]:
        """Folders of every try at a unit of work that was not published."""
        return sorted(
            path for path in self.units(stage).glob(f"{key}.*") if path.is_dir() and path.suffix != ".checkpoints"
        )

    def unit_lock(self, stage: StageName, key: str) -> Path:
        """File that says who makes a unit now."""
        return self.units(stage) / f"{key}.lock"

    def checkpoints(self, key: str) -> Path:
        """Folder of the checkpoints of a training, shared by its attempts."""
        return self.units(StageName.TRAIN) / f"{key}.checkpoints"

    def importance_matrix(self, key: str) -> Path:
        """Folder of an importance matrix, which several units of `quantize` share; its key is no unit's."""
        return self.units(StageName.QUANTIZE) / f"{key}.imatrix"

    def passed(self, key: str) -> Path:
        """File that says that a check of `rehearse` has passed, when, and what it found; its key is no unit's."""
        return self.units(StageName.REHEARSE) / f"{key}.passed.json"

    def sources(self, kind: str) -> Path:
        """Folder of all sources of a kind: ``models`` or ``datasets``."""
        return self.root / "store" / kind

    def store(self, kind: str, digest: str) -> Path:
        """Folder of a source."""
        return self.sources(kind) / digest

    def store_manifest(self, kind: str, digest: str) -> Path:
        """File that lists what a source in the store consists of."""
        return self.store(kind, digest).with_suffix(".manifest.json")

    def download(self, key: str, attempt: str = "") -> Path:
        """Folder in which a unit of `fetch` grows; `attempt` is the one that works at it, empty if none does."""
        return self.root / "store" / "downloads" / (f"{key}.{attempt}" if attempt else key)

    def run(self, job: str) -> Path:
        """Folder of one job: references only."""
        return self.root / "runs" / job

    def logs(self, job: str) -> Path:
        """Folder of what the stage programs of a job printed."""
        return self.run(job) / "logs"

    def log(self, job: str, stage: StageName, attempt: str, node: int = 0) -> Path:
        """File with what one try of a stage printed, on the first or a further one of its nodes."""
        return self.logs(job) / f"{stage}.{attempt}{f'.node-{node}' if node else ''}.log"

    def last_attempt(self, job: str, stage: StageName) -> Path:
        """File that says what became of a job's newest attempt at a stage."""
        return self.run(job) / "attempts" / f"{stage}.json"

    def report_page(self, job: str) -> Path:
        """File with the report on a job."""
        return self.run(job) / "report.html"

    def tracking(self, job: str, key: str) -> Path:
        """Folder of what is kept of a training for an experiment tracker, shared by its attempts."""
        return self.run(job) / "tracking" / key[:16]

    def identity(self) -> str:
        """Return 16 hexadecimal digits that no other volume has; the first who asks chooses them at random."""
        path = self.root / "stages" / "identity"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = path.with_name(f".{path.name}.{_token()}")
            write_whole(whole, secrets.token_hex(8))
            try:
                os.link(whole, path)
            except FileExistsError:
                whole.unlink()  # somebody else was first
            except OSError:  # a file system without hard links
                whole.rename(path)
            else:
                whole.unlink()
        return path.read_text(encoding="utf-8")

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

    def version(self, given: str) -> str:
        """Return the version of a source: a text that changes when somebody changed it; empty if it is not there.

        It is made from names, sizes and times of change alone, so that it costs nothing for a large model. `given` is
        the path in the job, and enters it.
        """
        try:
            place = self.resolve(given)
            files = sorted(_files_of(place)) if place.is_dir() else [place]
            seen = [(readable(file.relative_to(place).as_posix()), file.stat()) for file in files]
        except (OSError, UnsafePathError):
            return ""  # `fetch` says what is wrong with it, if it is needed
        return digest_of([given, [[name, status.st_size, status.st_mtime_ns] for name, status in seen]])

    def result(self, stage: StageName, key: str) -> StageResult | None:
        """Return the result of a finished unit of work, or None if there is none that can be used.

        A result counts only if it is readable, belongs to `key`, lies where a unit's result may lie, and every file
        that it lists is there in its size. Programs put no links into results, so what is a link now is none of theirs.

        Raises:
            OSError: nobody knows, because it cannot be looked at.
        """
        _look_anew(self.units(stage))
        try:
            result = StageResult.from_json((self.unit(stage, key) / "result.json").read_text("utf-8"))
        except (ValueError, KeyError, TypeError):
            return None
        except OSError as error:
            _raise_unless_not_there(error)
            return None
        places = [self.unit(stage, key) / "out", *(self.store(kind, result.digest) for kind in ("models", "datasets"))]
        if result.stage != stage or result.key != key or self.root / result.path not in places:
            return None
        return result if self._has(result.path, [(entry.path, entry.size) for entry in result.files]) else None

    def cleared(self, stage: StageName, key: str) -> StageResult | None:
        """Return the result of a unit whose content a clean-up has removed because all that follows from it is made.

        It tells what the content was, and so which keys follow from it; who needs the content makes the unit again.
        """
        try:
            result = StageResult.from_json(self.cleared_result(stage, key).read_text("utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return result if result.stage is stage and result.key == key else None

    def note_use(self, path: Path) -> None:
        """Leave a trace that a unit or a source is used now, so that no clean-up takes it for forgotten."""
        with contextlib.suppress(OSError):  # somebody else's, or a volume that is only read
            os.utime(path)

    def holds(self, wanted: Input) -> bool:
        """Return whether an input is there, and is what its digest says by the record of the stage that made it.

        What lies outside of `stages` and `store` is nobody's result: of that it is only seen whether it is there.

        Raises:
            OSError: nobody knows, because it cannot be looked at.
        """
        match PurePosixPath(wanted.path).parts:
            case ("stages", stage, key, "out") if stage in set(StageName):
                result = self.result(StageName(stage), key)
                return result is not None and result.digest == wanted.digest
            case ("store", kind, digest):
                _look_anew(self.sources(kind))
                return digest == wanted.digest and self._has(wanted.path, self._stored_files(kind, digest))
        return (self.root / wanted.path).is_dir()

    def _stored_files(self, kind: str, digest: str) -> list[tuple[str, int]]:
        """Return names and sizes by the manifest of a folder of the store; none if it has no manifest."""
        try:
            manifest = json.loads(self.store_manifest(kind, digest).read_text("utf-8"))
            return [(entry["path"], entry["size"]) for entry in manifest["files"]]
        except (ValueError, KeyError, TypeError):
            return []
        except OSError as error:
            _raise_unless_not_there(error)
            return []

    def _has(self, path: str, files: Iterable[tuple[str, int]]) -> bool:
        """Return whether there is a folder with these files in these sizes, none of which is a link or below one."""
        given = self.root / path
        try:
            folder = given.parent.resolve() / given.name
            return (
                folder.is_dir()
                and not folder.is_symlink()
                and all(_is_plain(folder / name, size) for name, size in files)
            )
        except OSError as error:
            _raise_unless_not_there(error)
            return False

    def forget(self, stage: StageName, key: str) -> None:
        """Remove a finished unit of work, so that it is made again: its result first, by which it counts."""
        folder = self.unit(stage, key)
        (folder / "result.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _files_of(place: Path) -> Iterator[Path]:
    """Yield the files of a source's folder that `fetch` may take: those that lie in it and are not hidden."""
    return (path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))


def _is_plain(path: Path, size: int) -> bool:
    """Return whether there is a file of this size at this very place, whose folder is a resolved one."""
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_size == size and path.resolve() == path


def readable(name: str) -> str:
    r"""Return a file's name as text that can be written: bytes that are no UTF-8 as ``\udcXX``."""
    return name.encode("utf-8", "backslashreplace").decode()


def _raise_unless_not_there(error: OSError) -> None:
    """Raise an error that does not say that something is not there."""
    if error.errno not in _NOT_THERE:
        raise error


def _look_anew(folder: Path) -> None:
    """Make an NFS client ask the server what is in `folder`, which opening it does (nfs(5), close-to-open).

    Otherwise it may believe for up to a minute that what another machine has just put there is missing.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


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
        _replace(partial, path, text)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _replace(partial: Path, path: Path, text: str) -> None:
    try:
        partial.replace(path)
    except FileNotFoundError:  # NFS: the rename took effect, its answer was lost and the client repeated it
        if path.read_text(encoding="utf-8") != text:
            raise


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
