"""Reads and writes safetensors files one tensor at a time, so that a model larger than the memory can pass through.

A file is the length of its header (8 bytes, little-endian), the header (JSON: name to dtype, shape and the data's
begin and end, counted from the header's end; ``__metadata__`` for strings) and the data, without gaps. Source: the
format's description in the README of huggingface/safetensors. Own code because the library writes whole dictionaries
only, and hands out bfloat16 to torch only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

INDEX = "model.safetensors.index.json"
_HEADER_LIMIT = 100_000_000  # the format's own
_ALIGNMENT = 8
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "U64": 8, "U32": 4, "U16": 2, "F8_E8M0": 1}

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of a tensor."""

    name: str
    dtype: str
    """The format's name: F32, BF16, ..."""
    shape: tuple[int, ...]
    begin: int
    """Offset of the data within the file, in bytes."""
    size: int
    """Bytes."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class SafetensorsFile:
    """A safetensors file opened for reading; its tensors are mapped, not loaded.

    Raises:
        StageError: it is not a whole safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= _HEADER_LIMIT:
                raise self._broken(f"its header would have {length} bytes")
            try:
                header = json.loads(file.read(length))
                self.metadata: dict[str, str] = header.pop("__metadata__", {})
                self.tensors = {name: _info(name, entry, 8 + length) for name, entry in header.items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self._broken(f"its header cannot be read ({type(error).__name__}: {error})") from error
        end = max((info.begin + info.size for info in self.tensors.values()), default=8 + length)
        if end > path.stat().st_size:
            raise self._broken(f"it has {path.stat().st_size} bytes and its header speaks of {end}")

    def bytes_of(self, name: str) -> Bytes:
        """Return a tensor's bytes as a view of the file."""
        info = self.tensors[name]
        if info.size == 0:
            return np.empty(0, np.uint8)
        return np.memmap(self.path, np.uint8, "r", info.begin, (info.size,))

    def floats_of(self, name: str) -> Floats:
        """Return a whole tensor in float32; meant for small ones."""
        info = self.tensors[name]
        return as_float32(self.bytes_of(name), info.dtype).reshape(info.shape)

    def _broken(self, why: str) -> StageError:
        return StageError(ExitCode.BAD_DATA, f"{self.path} is not a whole safetensors file: {why}", reason="BadWeights")


def _info(name: str, entry: Mapping[str, Any], data: int) -> TensorInfo:
    first, last = entry["data_offsets"]
    shape = tuple(int(extent) for extent in entry["shape"])
    if first < 0 or min(shape, default=0) < 0 or last - first != math.prod(shape) * _BYTES[entry["dtype"]]:
        raise ValueError(f"tensor {name} has {last - first} bytes, which its shape and dtype do not give")
    return TensorInfo(name, entry["dtype"], shape, data + first, last - first)


class SafetensorsWriter:
    """Writes a safetensors file tensor by tensor, in the order of `tensors`. Used as a context manager."""

    def __init__(self, path: Path, tensors: Sequence[TensorInfo], metadata: Mapping[str, str]) -> None:
        self._left = list(tensors)
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        offset = 0
        for info in tensors:
            header[info.name] = {
                "dtype": info.dtype,
                "shape": info.shape,
                "data_offsets": (offset, offset + info.size),
            }
            offset += info.size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, blocks: Iterable[Bytes]) -> None:
        """Write the next tensor's data, given in pieces."""
        info = self._left.pop(0)
        if info.name != name:
            raise ValueError(f"{info.name} is next, not {name}")
        written = 0
        for block in blocks:
            written += self._file.write(np.ascontiguousarray(block).data)
        if written != info.size:
            raise ValueError(f"{name} has {info.size} bytes, {written} were given")

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; without an error every tensor must have been written."""
        self._file.close()
        if kind is None and self._left:
            raise ValueError(f"{len(self._left)} tensors were not written, the first is {self._left[0].name}")


def weight_files(folder: Path) -> list[Path]:
    """Return a model folder's weight files: those that the index names, else ``model.safetensors``.

    Raises:
        StageError: one is missing.
    """
    index = folder / INDEX
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise StageError(
            ExitCode.MISSING_INPUT, f"{folder} lacks the weights {', '.join(missing)}", reason="MissingShard"
        )
    return [folder / name for name in names]


# --- number formats --------------------------------------------------------------------------------------------------

FLOATS = ("F32", "F16", "BF16")
"""The dtypes that can be computed with."""


def as_float32(data: Bytes, dtype: str) -> Floats:
    """Return the numbers that `data` holds in `dtype`, exactly."""
    if dtype == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view({"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def from_float32(values: Floats, dtype: str) -> Bytes:
    """Return `values` in `dtype` as bytes, each rounded once to the nearest (ties to even). NaN must not occur."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2").view(np.uint8).reshape(-1)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which the caller looks for
        return np.ascontiguousarray(values, {"F32": "<f4", "F16": "<f2"}[dtype]).view(np.uint8).reshape(-1)
