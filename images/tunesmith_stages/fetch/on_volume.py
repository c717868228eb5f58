"""Sources that lie on the volume already: a model's folder, a dataset's files, a GGUF file."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.fetch.asked import Asked
from tunesmith_stages.fetch.data_files import dataset_files
from tunesmith_stages.fetch.model_files import describe_model, model_files
from tunesmith_stages.fetch.storing import store_copies
from tunesmith_stages.gguf_file import GgufFile, read_gguf
from tunesmith_stages.program import Made, StageError, Work

_CORRECT = "Put it there, or correct the `{}`, which is relative to the volume's root."
_PART_OF_GGUF = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.gguf$")


def version(asked: Asked) -> str:
    """Return the version of a folder or file; empty if it is not there, which `fetch` complains of."""
    return asked.volume.version(asked.source["volume"]["path"])


def bring(work: Work) -> Made:
    """Copy a model or a dataset into the store.

    Raises:
        StageError: it is not there, or is not what it should be.
        UnsafePathError: it leads out of the volume.
    """
    given: str = work.params["source"]["volume"]["path"]
    place = find(work, given, _CORRECT.format("volume.path"))
    outputs: dict[str, Any] = {}
    if work.params["kind"] == "models":
        files = model_files(place, given)
        outputs = describe_model(place)
    else:
        files = dataset_files(place, given)
    return store_copies(work, {path.name: path for path in files}, outputs)


def find(work: Work, given: str, hint: str) -> Path:
    """Return where a path that the job gives leads to; links on the volume are followed, those out of it refused.

    Raises:
        StageError: nothing is there.
        UnsafePathError: it leads out of the volume.
    """
    work.volume.resolve(given)
    place = work.volume.root / given
    if not _is_there(place):
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"the source `{work.unit.name}` is not there: {given!r} on the volume {work.volume.root}",
            reason="SourceNotFound",
            hint=hint,
        )
    for path in place.iterdir() if place.is_dir() else (place,):
        work.volume.resolve(work.volume.relative(path))
    return place


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


# --- GGUF ------------------------------------------------------------------------------------------------------------


def version_of_gguf(asked: Asked) -> str:
    """Return the version of a GGUF file; empty if it is not there, which `fetch` complains of."""
    return asked.volume.version(asked.source["gguf"]["path"])


def bring_gguf(work: Work) -> Made:
    """Copy a GGUF file into the store, as ``model.gguf``.

    Raises:
        StageError: it is not there, no GGUF file, or one part of several.
        UnsafePathError: it leads out of the volume.
    """
    given: str = work.params["source"]["gguf"]["path"]
    place = find(work, given, _CORRECT.format("gguf.path"))
    if not place.is_file():
        raise _not_gguf(f"{given!r} must be a file that ends in .gguf")
    try:
        gguf = read_gguf(place)
    except (ValueError, OverflowError, MemoryError) as error:
        raise _not_gguf(f"{given!r} is no GGUF file: {error}") from error
    _require_one_part(gguf, given)
    if not gguf.tensors or not gguf.architecture:
        raise _not_gguf(f"{given!r} holds no model: it has {len(gguf.tensors)} tensors and names no architecture")
    return store_copies(work, {"model.gguf": place}, {"architecture": gguf.architecture, "modelType": "gguf"})


def _require_one_part(gguf: GgufFile, given: str) -> None:
    parts = gguf.metadata.get("split.count", 1)
    if _PART_OF_GGUF.search(given) or (isinstance(parts, int) and parts > 1):
        raise StageError(
            ExitCode.BAD_DATA,
            f"{given!r} is one part of a model that is split into several GGUF files",
            reason="GgufInParts",
            hint="Join them: `llama-gguf-split --merge FIRST-PART model.gguf`, and name the file that this makes.",
        )


def _not_gguf(message: str) -> StageError:
    return StageError(
        ExitCode.BAD_DATA, message, reason="NotAGguf", hint="Name a whole GGUF file of version 2 or 3 (`gguf.path`)."
    )
