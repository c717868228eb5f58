"""The manifest of a checkpoint: which files it consists of, and by what one sees that they are as they were written.

A file is known by its size and its CRC-32, which finds every damage of a few neighbouring bytes for certain and any
other but for one in four billion. It guards against disks, not against people. Standard library only.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith_stages.volume import sync, write_whole

COMPLETE = "COMPLETE"
"""Its name, in the checkpoint's folder. It is written last, and knows its own checksum too."""

_CHUNK = 4 * 1024 * 1024


class FileFacts(NamedTuple):
    """By what a file is known."""

    size: int
    """Bytes."""
    crc32: str
    """Eight hexadecimal digits."""


class DamagedError(Exception):
    """A file of a checkpoint is not as it was written; the message names it."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself."""

    step: int
    world_size: int
    layout: Mapping[str, Any]
    """See :func:`.deepspeed_config.state_layout`."""
    files: Mapping[str, FileFacts]
    """By path within the checkpoint."""


def forced_to_disk(path: Path) -> FileFacts:
    """Force a file to disk; return by what it is known, read meanwhile from the memory where it still is."""
    with ThreadPoolExecutor(1) as pool:
        forced = pool.submit(sync, path)
        facts = _facts(path)
        forced.result()
    return facts


def _facts(path: Path) -> FileFacts:
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
    return FileFacts(size, f"{checksum:08x}")


def write_manifest(folder: Path, step: int, files: Mapping[str, FileFacts], facts: Mapping[str, Any]) -> None:
    """Write the manifest of the checkpoint in `folder`.

    `facts` hold ``worldSize``, ``layout`` and what else is worth knowing.
    """
    listed = {name: known._asdict() for name, known in files.items()}
    write_whole(folder / COMPLETE, _text({**facts, "step": step, "files": listed}))


def _text(content: Mapping[str, Any]) -> str:
    checksum = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    return json.dumps({**content, "crc32": f"{checksum:08x}"}, indent=2, sort_keys=True)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the checkpoint in `folder`, and see that its files are there in their sizes.

    Raises:
        DamagedError: it is not as it was written, or a file is not there or has another size.
    """
    try:
        text = (folder / COMPLETE).read_bytes().decode()
        content = json.loads(text)
        del content["crc32"]
        if text != _text(content):
            raise DamagedError(f"{COMPLETE} does not have the checksum that it names")
        files = {name: FileFacts(int(known["size"]), known["crc32"]) for name, known in content["files"].items()}
        manifest = Manifest(int(content["step"]), int(content["worldSize"]), dict(content["layout"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{COMPLETE} cannot be used: {type(error).__name__}: {error}") from error
    for name, known in files.items():
        found = size_of(folder / name)
        if found != known.size:
            raise DamagedError(f"{name} has {found} bytes instead of {known.size}")
    return manifest


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def check_content(folder: Path, files: Mapping[str, FileFacts]) -> None:
    """Read some files of a checkpoint, and see that they hold what was written.

    Raises:
        DamagedError: one does not.
    """
    for name, known in files.items():
        try:
            found = _facts(folder / name)
        except OSError as error:
            raise DamagedError(f"{name} cannot be read: {error}") from error
        if found != known:
            raise DamagedError(f"{name} has the checksum {found.crc32} instead of {known.crc32}")
