"""Which files of a model's folder are needed, and proof that none of them is missing or damaged."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.fetch.data_files import require_readable_names
from tunesmith_stages.program import StageError
from tunesmith_stages.volume import readable

INDEX = "model.safetensors.index.json"
LICENCES = ("LICENSE", "LICENCE", "NOTICE")
"""How the names of files begin that say what is allowed, in capitals."""
_SUFFIXES = (".json", ".jinja", ".txt", ".model")
_MAX_HEADER = 100_000_000  # bytes; the safetensors format's own bound
COPY_AGAIN = "Copy the whole model's folder, with its tokenizer, to the volume again."


def model_files(place: Path, given: str, *, cure: str = COPY_AGAIN) -> list[Path]:
    """Return the files of a base model that are needed, after proving that none is missing or damaged.

    Args:
        place: the model's folder.
        given: what people call it.
        cure: what to do about a file that is missing or damaged.

    Raises:
        StageError: the configuration, the tokenizer or a part of the weights is missing, damaged or not safetensors.
    """
    if not place.is_dir():
        raise StageError(ExitCode.BAD_DATA, f"the base model {given!r} must be a folder", reason="NotAModel")
    require_parts({path.name for path in place.iterdir() if path.is_file()}, given, cure)
    weights = _weight_files(place, given, cure)
    require_readable_names(weights, given)
    for path in weights:
        check_safetensors(path, cure)
    small = sorted(path for path in place.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    licences = sorted(path for path in place.iterdir() if path.name.upper().startswith(LICENCES))
    beside = [*small, *(path for path in licences if path not in small and path.is_file())]
    require_readable_names(beside, given)
    return [*beside, *weights]


def require_parts(names: set[str], given: str, cure: str) -> None:
    """Check that a model has a configuration and a tokenizer, by the names of its files.

    Raises:
        StageError: one is missing.
    """
    for name, reason, what in (
        ("config.json", "NotAModel", "a model's folder holds one"),
        ("tokenizer.json", "TokenizerMissing", "the tokenizer must be there in the form of the tokenizers library"),
    ):
        if name not in names:
            raise StageError(
                ExitCode.MISSING_INPUT, f"the base model {given!r} has no {name}: {what}", reason=reason, hint=cure
            )


def weight_names(names: set[str], given: str, cure: str) -> list[str]:
    """Return which of a model's files without an index hold its weights, by their names.

    Raises:
        StageError: none does, or several that no index binds together.
    """
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if "model.safetensors" in found:
        return ["model.safetensors"]
    if len(found) == 1:
        return found
    if found:
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"the base model {given!r} has {len(found)} weight files but no {INDEX}",
            reason="WeightsMissing",
            hint=cure,
        )
    pickled = sorted(readable(name) for name in names if name.endswith((".bin", ".pt", ".pth")))
    raise StageError(
        ExitCode.BAD_DATA if pickled else ExitCode.MISSING_INPUT,
        f"the base model {given!r} has no safetensors weights" + (f", only {pickled[0]}" if pickled else ""),
        reason="UnsafeWeights" if pickled else "WeightsMissing",
        hint="Weights must be .safetensors files: pickled ones can run code when loaded and are refused. Load and "
        "save the model once with transformers on a machine that you trust." if pickled else cure,
    )  # fmt: skip


def indexed_names(index: Path, given: str, cure: str) -> dict[str, set[str]]:
    """Return by the name of each weight file the tensors that an index says it holds.

    Raises:
        StageError: the file is no index, or names files elsewhere.
    """
    files: dict[str, set[str]] = {}
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        for tensor, name in weight_map.items():
            files.setdefault(name, set()).add(tensor)
        elsewhere = [name for name in sorted(files) if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{index.name} of {given!r} is no index of weights: {type(error).__name__}: {error}",
            reason="DamagedWeights",
            hint=cure,
        ) from error
    if elsewhere:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{index.name} of {given!r} names files in other folders, such as {elsewhere[0]!r}",
            reason="DamagedWeights",
            hint="All weights must lie in the model's folder.",
        )
    return files


def require_shards(wanted: set[str], names: set[str], given: str, cure: str) -> None:
    """Check that every weight file that an index names is there.

    Raises:
        StageError: one is not.
    """
    missing = sorted(wanted - names)
    if missing:
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"the base model {given!r} lacks {len(missing)} of {len(wanted)} weight files: {', '.join(missing[:5])}",
            reason="MissingShard",
            hint=cure,
        )


def _weight_files(place: Path, given: str, cure: str) -> list[Path]:
    index = place / INDEX
    names = {path.name for path in place.iterdir() if path.is_file()}
    if not index.is_file():
        return [place / name for name in weight_names(names, given, cure)]
    files = indexed_names(index, given, cure)
    require_shards(set(files), names, given, cure)
    for name, wanted in sorted(files.items()):
        lost = sorted(wanted - check_safetensors(place / name, cure).keys())
        if lost:
            raise StageError(
                ExitCode.BAD_DATA,
                f"{name} of {given!r} lacks the tensor {lost[0]} ({len(lost)} in all) that the index says it holds",
                reason="DamagedWeights",
                hint="The file and the index must be of the same model.",
            )
    return [place / name for name in sorted(files)]


def check_safetensors(path: Path, cure: str = COPY_AGAIN) -> dict[str, Any]:
    """Return the header of a safetensors file, after proving that its tensors lie one behind the other and fill it.

    The format: 8 bytes with the header's length (little endian), the header as JSON, the tensors' bytes without gaps
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
        end = _end_of_data(header)
    except (
        ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, struct.error
    ) as error:  # fmt: skip
        raise StageError(
            ExitCode.BAD_DATA,
            f"{path.name} is not a safetensors file: {error}",
            reason="DamagedWeights",
            hint=f"{cure} (A file of Git LFS that was not pulled looks like this, too.)",
        ) from error
    size = path.stat().st_size
    if size != 8 + length + end:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{path.name} is {size:,} bytes long, but its header asks for {8 + length + end:,}",
            reason="DamagedWeights",
            hint=cure,
        )
    return header


def _end_of_data(header: Mapping[str, Any]) -> int:
    """Return how many bytes the tensors have together, which lie one behind the other and fill them.

    Raises:
        ValueError: they overlap, or leave gaps.
    """
    end = 0
    offsets = {name: (int(entry["data_offsets"][0]), int(entry["data_offsets"][1])) for name, entry in header.items()}
    for name, (begin, behind) in sorted(offsets.items(), key=lambda item: item[1]):
        if begin != end or behind < begin:
            raise ValueError(f"the tensor {name[:200]!r} would lie from {begin} to {behind}, and not from {end} on")
        end = behind
    return end


def describe_model(place: Path, cure: str = COPY_AGAIN) -> dict[str, Any]:
    """Return what a model's configuration says it is: ``architecture`` and ``modelType``.

    Raises:
        StageError: it does not say.
    """
    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        message = f"config.json of the base model is not JSON: {error}"
        raise StageError(ExitCode.BAD_DATA, message, reason="NotAModel", hint=cure) from error
    try:
        architecture = config["architectures"][0]
    except (KeyError, IndexError, TypeError) as error:
        message = "config.json of the base model names no architecture (`architectures`)"
        raise StageError(ExitCode.BAD_DATA, message, reason="NotAModel", hint=cure) from error
    return {"architecture": architecture, "modelType": config.get("model_type", "")}
