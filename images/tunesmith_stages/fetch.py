"""The stage `fetch`: brings a source into the volume's store, whole and checked, and says which content it is.

A source is a base model or a dataset. It is copied file by file and hashed on the way; the folder's name in the store
is the digest of its content, so the same content lies there once, whoever asked for it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode, FileEntry, StageName, UnitConfig, content_key, manifest_digest
from tunesmith_stages.program import Made, StageError, Work, main
from tunesmith_stages.volume import UnsafePathError, Volume, publish, readable, sync, write_whole

DATASET_SUFFIXES = (".json", ".jsonl")
_MODEL_SUFFIXES = (".json", ".jinja", ".txt", ".model")
_CHUNK = 4 * 1024 * 1024
_MAX_HEADER = 100_000_000  # bytes; the safetensors format's own bound
_BUILTIN = Path(__file__).resolve().parent / "builtin"
_BUILTIN_NAMES = {"SelfCognition": "self_cognition"}


def fetch(work: Work) -> Made:
    """Bring one source into the store."""
    source: Mapping[str, Any] = work.params["source"]
    kind: str = work.params["kind"]
    outputs: dict[str, Any] = {}
    if "builtin" in source:
        name = _BUILTIN_NAMES[source["builtin"]]
        return _store(work, kind, [_BUILTIN / f"{name}.{code}.jsonl" for code in source["languages"]], outputs)
    given = source["volume"]["path"]
    work.volume.resolve(given)
    place = work.volume.root / given
    if not _is_there(place):
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"the source `{work.unit.name}` is not there: {given!r} on the volume {work.volume.root}",
            reason="SourceNotFound",
            hint="Put it there, or correct the `volume.path`, which is relative to the volume's root.",
        )
    _refuse_links_out(work, place)
    if kind == "models":
        files = model_files(place, given)
        outputs.update(_describe_model(place))
    else:
        files = dataset_files(place, given)
    return _store(work, kind, files, outputs)


def resolved(volume: Volume, unit: UnitConfig) -> UnitConfig:
    """Return a unit with the version of its source, and thus with the key that it has for who sees the volume.

    What is built in has no version, and neither has what is not there: `fetch` says what is wrong with that.
    """
    source = unit.params["source"]
    version = volume.version(source["volume"]["path"]) if "volume" in source else ""
    params = {**unit.params, "refresh": version}
    return dataclasses.replace(unit, key=content_key(StageName.FETCH, params, unit.inputs), params=params)


# --- which files belong to a source ----------------------------------------------------------------------------------


def dataset_files(place: Path, given: str) -> list[Path]:
    """Return the files of a dataset: the file itself, or those of a folder.

    Raises:
        StageError: there is none, or one whose kind or name cannot be read.
    """
    allowed = " or ".join(DATASET_SUFFIXES)
    candidates = place.iterdir() if place.is_dir() else [place]
    files = sorted(path for path in candidates if path.suffix in DATASET_SUFFIXES and path.is_file())
    if not files:
        what = f"the folder {given!r} holds no {allowed} file" if place.is_dir() else f"{given!r} is no {allowed} file"
        raise StageError(ExitCode.BAD_DATA, what, reason="UnknownFileType", hint=f"Datasets must be {allowed} files.")
    _require_readable_names(files, given)
    return files


def model_files(place: Path, given: str) -> list[Path]:
    """Return the files of a base model that are needed, after proving that none is missing or damaged.

    Raises:
        StageError: the configuration, the tokenizer or a part of the weights is missing, damaged or not safetensors.
    """
    if not place.is_dir():
        raise StageError(ExitCode.BAD_DATA, f"the base model {given!r} must be a folder", reason="NotAModel")
    for name, reason, what in (
        ("config.json", "NotAModel", "a model's folder holds one"),
        ("tokenizer.json", "TokenizerMissing", "the tokenizer must be there in the form of the tokenizers library"),
    ):
        if not (place / name).is_file():
            raise StageError(
                ExitCode.MISSING_INPUT,
                f"the base model {given!r} has no {name}: {what}",
                reason=reason,
                hint="Copy the whole model's folder, with its tokenizer, to the volume.",
            )
    weights = _weight_files(place, given)
    _require_readable_names(weights, given)
    for path in weights:
        check_safetensors(path)
    small = sorted(path for path in place.iterdir() if path.suffix in _MODEL_SUFFIXES and path.is_file())
    licences = sorted(
        path for path in place.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
    )
    beside = [*small, *(path for path in licences if path not in small and path.is_file())]
    _require_readable_names(beside, given)
    return [*beside, *weights]


def _require_readable_names(files: list[Path], given: str) -> None:
    """Refuse names that are not UTF-8: manifests and results, which list the files, are."""
    for path in files:
        name = readable(path.name)
        if name != path.name:
            raise StageError(
                ExitCode.BAD_DATA,
                f"the name of a file of {given!r} is not UTF-8; where its bytes are not, `\\udc` precedes them: {name}",
                reason="FileNameNotUtf8",
                hint="Rename the file. (An archive made under Windows is often unpacked with such names: "
                "`unzip -O GBK` or `convmv` mends them.)",
            )


def _weight_files(place: Path, given: str) -> list[Path]:
    index = place / "model.safetensors.index.json"
    if index.is_file():
        return _indexed_weights(place, given, index)
    found = sorted(place.glob("*.safetensors"))
    if not found:
        pickled = sorted(
            readable(path.name) for path in (*place.glob("*.bin"), *place.glob("*.pt"), *place.glob("*.pth"))
        )
        raise StageError(
            ExitCode.BAD_DATA if pickled else ExitCode.MISSING_INPUT,
            f"the base model {given!r} has no safetensors weights" + (f", only {pickled[0]}" if pickled else ""),
            reason="UnsafeWeights" if pickled else "WeightsMissing",
            hint="Weights must be .safetensors files: pickled ones can run code when loaded and are refused. Load and "
            "save the model once with transformers on a machine that you trust." if pickled else
            "Copy the whole model's folder to the volume.",
        )  # fmt: skip
    whole = place / "model.safetensors"
    if whole in found:
        return [whole]
    if len(found) == 1:
        return found
    raise StageError(
        ExitCode.MISSING_INPUT,
        f"the base model {given!r} has {len(found)} weight files but no model.safetensors.index.json",
        reason="WeightsMissing",
        hint="Copy the whole model's folder to the volume.",
    )


def _indexed_weights(place: Path, given: str, index: Path) -> list[Path]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
        elsewhere = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{index.name} of {given!r} is no index of weights: {type(error).__name__}: {error}",
            reason="DamagedWeights",
            hint="Copy the file to the volume again.",
        ) from error
    if elsewhere:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{index.name} of {given!r} names files in other folders, such as {elsewhere[0]!r}",
            reason="DamagedWeights",
            hint="All weights must lie in the model's folder.",
        )
    missing = [name for name in names if not (place / name).is_file()]
    if missing:
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"the base model {given!r} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing[:5])}",
            reason="MissingShard",
            hint="Copy the missing files to the volume.",
        )
    for name in names:
        wanted = {tensor for tensor, shard in weight_map.items() if shard == name}
        lost = sorted(wanted - check_safetensors(place / name).keys())
        if lost:
            raise StageError(
                ExitCode.BAD_DATA,
                f"{name} of {given!r} lacks the tensor {lost[0]} ({len(lost)} in all) that the index says it holds",
                reason="DamagedWeights",
                hint="Copy the file and the index to the volume again; they must be of the same model.",
            )
    return [place / name for name in names]


def check_safetensors(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file, after proving that the file has the size that the header asks for.

    The format: 8 bytes with the header's length (little endian), the header as JSON, the tensors' bytes
    (https://github.com/huggingface/safetensors#format).

    Raises:
        StageError: it is not such a file, or is cut short.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{path.name} is not a safetensors file: {error}",
            reason="DamagedWeights",
            hint="Copy the file to the volume again. (A file of Git LFS that was not pulled looks like this, too.)",
        ) from error
    size = path.stat().st_size
    if size != 8 + length + end:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{path.name} is {size:,} bytes long, but its header asks for {8 + length + end:,}",
            reason="DamagedWeights",
            hint="Copy the file to the volume again.",
        )
    return header


def _describe_model(place: Path) -> dict[str, Any]:
    hint = "Copy the whole model's folder to the volume again."
    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"config.json of the base model is not JSON: {error}"
        raise StageError(ExitCode.BAD_DATA, message, reason="NotAModel", hint=hint) from error
    try:
        architecture = config["architectures"][0]
    except (KeyError, IndexError, TypeError) as error:
        message = "config.json of the base model names no architecture (`architectures`)"
        raise StageError(ExitCode.BAD_DATA, message, reason="NotAModel", hint=hint) from error
    return {"architecture": architecture, "modelType": config.get("model_type", "")}


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _refuse_links_out(work: Work, place: Path) -> None:
    """Refuse symbolic links that lead out of the volume, before anything is read through them."""
    for path in place.iterdir() if place.is_dir() else (place,):
        work.volume.resolve(work.volume.relative(path))


# --- into the store --------------------------------------------------------------------------------------------------


def _store(work: Work, kind: str, files: list[Path], outputs: dict[str, Any]) -> Made:
    total = sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(work.folder).free
    if total > free:
        raise StageError(
            ExitCode.NO_SPACE,
            f"the source `{work.unit.name}` has {total:,} bytes; only {free:,} are free on the volume",
        )
    incoming = work.folder / "incoming"
    incoming.mkdir()
    advance = work.progress.counter(total, "bytes")
    entries = tuple(_copy(work.volume, path, incoming / path.name, advance) for path in files)
    digest = manifest_digest(entries)
    final = work.volume.store(kind, digest)
    sync(incoming)
    publish(incoming, final, lambda: _is_whole(final, entries))
    manifest = {"digest": digest, "files": [vars(entry) for entry in entries]}
    write_whole(work.volume.store_manifest(kind, digest), json.dumps(manifest, indent=2) + "\n")
    return Made(
        outputs={**outputs, "files": len(entries)}, numbers={"bytes": float(total)}, stored=final, files=entries
    )


def _copy(volume: Volume, source: Path, target: Path, advance: Callable[[int], None]) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    with source.open("rb") as reading, target.open("xb") as writing:
        _refuse_outsider(volume, reading.fileno())
        while chunk := reading.read(_CHUNK):
            digest.update(chunk)
            size += writing.write(chunk)
            advance(len(chunk))
        writing.flush()
        os.fsync(writing.fileno())
    return FileEntry(target.name, size, digest.hexdigest())


def _refuse_outsider(volume: Volume, handle: int) -> None:
    """Refuse an open file that does not lie on the volume: a link may have been put there since it was looked at."""
    place = Path(f"/proc/self/fd/{handle}").readlink()
    if not (place.is_relative_to(volume.root) or place.is_relative_to(_BUILTIN)):
        raise UnsafePathError(f"a file of the source leads out of the volume, to {place}")


def _is_whole(folder: Path, entries: tuple[FileEntry, ...]) -> bool:
    return all(
        (folder / entry.path).is_file() and (folder / entry.path).stat().st_size == entry.size for entry in entries
    )


if __name__ == "__main__":
    main(StageName.FETCH, fetch, resolve=resolved)
