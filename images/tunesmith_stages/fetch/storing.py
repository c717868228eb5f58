"""Puts a source into the store: files are copied or moved, hashed, and published as one folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith_stages.contract import ExitCode, FileEntry, manifest_digest
from tunesmith_stages.program import Made, StageError, Work
from tunesmith_stages.volume import UnsafePathError, Volume, publish, readable, sync, write_whole

_CHUNK = 4 * 1024 * 1024
BUILTIN = Path(__file__).resolve().parent.parent / "builtin"
"""Folder of the datasets that come with Tunesmith."""


def require_space(work: Work, needed: int) -> None:
    """Check, before the first byte is written, that so many bytes fit on the volume.

    Raises:
        StageError: they don't.
    """
    free = shutil.disk_usage(work.folder).free
    if needed > free:
        raise StageError(
            ExitCode.NO_SPACE,
            f"the source `{work.unit.name}` has {needed:,} bytes; only {free:,} are free on the volume",
        )


def store_copies(
    work: Work, files: Mapping[str, Path], outputs: Mapping[str, Any], texts: Mapping[str, bytes] | None = None
) -> Made:
    """Copy files of the volume into the store.

    Args:
        work: the unit.
        files: by their path in the store.
        outputs: what the result says besides their number.
        texts: by their path in the store, the content of further small files.

    Raises:
        StageError: they don't fit on the volume.
        UnsafePathError: one leads out of the volume.
    """
    total = sum(path.stat().st_size for path in files.values())
    require_space(work, total)
    incoming = work.folder / "incoming"
    incoming.mkdir()
    advance = work.progress.counter(total, "bytes")
    entries = [_copy(work, path, incoming, name, advance) for name, path in files.items()]
    entries += [write_file(content, incoming, name) for name, content in (texts or {}).items()]
    return store_folder(work, incoming, entries, outputs)


def store_folder(work: Work, folder: Path, entries: Iterable[FileEntry], outputs: Mapping[str, Any]) -> Made:
    """Move a folder, which lies on the volume and holds exactly these files, into the store."""
    files = tuple(entries)
    kind: str = work.params["kind"]
    digest = manifest_digest(files)
    final = work.volume.store(kind, digest)
    for place in sorted({(folder / entry.path).parent for entry in files}):
        sync(place)
    publish(folder, final, lambda: _is_whole(final, files))
    manifest = {"digest": digest, "files": [vars(entry) for entry in files]}
    write_whole(work.volume.store_manifest(kind, digest), json.dumps(manifest, indent=2) + "\n")
    total = sum(entry.size for entry in files)
    return Made(outputs={**outputs, "files": len(files)}, numbers={"bytes": float(total)}, stored=final, files=files)


def _copy(work: Work, source: Path, folder: Path, name: str, advance: Callable[[int], None]) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_source(work.volume, source) as reading, target.open("xb") as writing:
        while chunk := reading.read(_CHUNK):
            digest.update(chunk)
            size += writing.write(chunk)
            advance(len(chunk))
        writing.flush()
        os.fsync(writing.fileno())
    return FileEntry(name, size, digest.hexdigest())


def open_source(volume: Volume, path: Path) -> BinaryIO:
    """Open a file of a source, whatever has been put in its place since it was looked at.

    Raises:
        UnsafePathError: it does not lie on the volume, or is a pipe, a socket or a device, which could be waited for.
    """
    try:
        file: BinaryIO = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - pathlib takes no opener
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise _no_file(path) from None  # a socket
    try:
        place = Path(f"/proc/self/fd/{file.fileno()}").readlink()
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _no_file(path)
        if not (place.is_relative_to(volume.root) or place.is_relative_to(BUILTIN)):
            raise UnsafePathError(f"a file of the source leads out of the volume, to {place}")
    except BaseException:
        file.close()
        raise
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _no_file(path: Path) -> UnsafePathError:
    return UnsafePathError(f"{readable(path.name)!r} of the source is a pipe, a socket or a device, not a file")


def write_file(content: bytes, folder: Path, name: str) -> FileEntry:
    """Write a file into a folder that goes into the store, and force it to disk."""
    with (folder / name).open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(name, len(content), hashlib.sha256(content).hexdigest())


def _is_whole(folder: Path, entries: tuple[FileEntry, ...]) -> bool:
    return all(
        (folder / entry.path).is_file() and (folder / entry.path).stat().st_size == entry.size for entry in entries
    )
