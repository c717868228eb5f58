"""Reads what a GGUF file says of itself: its metadata and the list of its tensors; changes its texts.

A reader of our own, on purpose: it checks files that llama.cpp's converter and quantizer wrote, starts in no time and
needs only the standard library. Source of the layout: ggml's description of the format (ggml/docs/gguf.md), version 3.
"""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith_stages.quantization_types import QUANTIZATION_TYPES

FILE_TYPES: Mapping[str, int] = {name: kind.file_type for name, kind in QUANTIZATION_TYPES.items()}
"""``general.file_type`` of each type that a job can ask for."""

UNQUANTIZED = frozenset({0, 1, 24, 25, 26, 27, 28, 30})
"""ggml's numbers of the types that hold ordinary numbers: F32, F16, I8 to I64, F64, BF16 (``enum ggml_type``)."""

_BYTES: Mapping[int, int] = {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}
"""Bytes of a number in each of these."""

TEMPLATE = "tokenizer.chat_template"
"""The key of the chat template."""

NAME = "general.name"
"""The key of what the model is called."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING = 8
_ARRAY = 9
_LONGEST = 1 << 28
_MOST_EXTENTS = 4  # ggml's own (GGML_MAX_DIMS)
_CHUNK = 4 * 1024 * 1024


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: its name, its extents (the fastest running first), ggml's number of its type, and where it lies."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int = 0
    """Bytes from the file's `data_offset` on."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file says of itself."""

    path: Path
    metadata: Mapping[str, Any]
    """Key to number, string, boolean or list of these."""
    tensors: tuple[GgufTensor, ...]
    data_offset: int
    """Where the tensors' data begins, in bytes."""
    size: int
    """Bytes of the whole file."""

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture; the prefix of the keys that belong to it."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def is_cut(self) -> bool:
        """Whether the file ends before its tensors do. One of a quantized type is taken to have no bytes."""
        ends = [tensor.offset + tensor.elements * _BYTES.get(tensor.type, 0) for tensor in self.tensors]
        return bool(ends) and self.size < self.data_offset + max(ends)

    @property
    def bits_per_weight(self) -> float:
        """Bytes of tensor data in bits, over the number of weights."""
        elements = sum(tensor.elements for tensor in self.tensors)
        return (self.size - self.data_offset) * 8 / elements if elements else 0.0

    @property
    def is_quantized(self) -> bool:
        """Whether any tensor is stored in blocks, from which the numbers that it was made of do not come back."""
        return any(tensor.type not in UNQUANTIZED for tensor in self.tensors)

    @property
    def type_name(self) -> str:
        """The name of its type, of several the longest; what it says instead if that is none we know."""
        number = self.metadata.get("general.file_type")
        names = [name for name, known in FILE_TYPES.items() if known == number]
        return max(names, key=len, default=f"an unknown type ({number})")

    def own(self, key: str) -> Any:
        """Return the value of a key that belongs to the architecture, such as ``context_length``; None if absent."""
        return self.metadata.get(f"{self.architecture}.{key}")


def read_gguf(path: Path) -> GgufFile:
    """Read the head of a GGUF file; whether all that it speaks of follows says :attr:`GgufFile.is_cut`.

    Raises:
        ValueError: it is not a little-endian GGUF file of version 2 or 3, is damaged, or ends within its head.
    """
    with path.open("rb") as file:
        magic, version, tensor_count, key_count = _unpack(file, "<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"{path} is not a GGUF file of version 2 or 3 (it begins with {magic!r}, {version})")
        metadata = {}
        for _ in range(key_count):
            key = _string(file)
            (kind,) = _unpack(file, "<I")
            metadata[key] = _value(file, kind)
        tensors = tuple(_tensor(file) for _ in range(tensor_count))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"{path} is damaged: its tensors would lie at multiples of {str(alignment)[:50]} bytes")
        data_offset = -(-file.tell() // alignment) * alignment
    return GgufFile(path, metadata, tensors, data_offset, path.stat().st_size)


def write_with_text(source: GgufFile, target: Path, key: str, text: str) -> None:
    """Write `source` to `target` with another text at `key`; nothing else changes, the tensors' data are copied.

    Raises:
        ValueError: `source` has no text at `key`.
    """
    data = text.encode()
    with source.path.open("rb") as file, target.open("wb") as out:
        begin, end, head_end = _text_at(file, key)
        file.seek(0)
        out.write(file.read(begin) + struct.pack("<Q", len(data)) + data)
        file.seek(end)
        out.write(file.read(head_end - end))
        alignment = int(source.metadata.get("general.alignment", 32))
        out.write(b"\0" * (-out.tell() % alignment))
        file.seek(source.data_offset)
        shutil.copyfileobj(file, out, _CHUNK)


def _text_at(file: BinaryIO, wanted: str) -> tuple[int, int, int]:
    """Return where the text of a key begins and ends, with its length, and where the list of tensors ends."""
    _, _, tensor_count, key_count = _unpack(file, "<4sIQQ")
    place: tuple[int, int] | None = None
    for _ in range(key_count):
        key = _string(file)
        (kind,) = _unpack(file, "<I")
        begin = file.tell()
        _value(file, kind)
        if (key, kind) == (wanted, _STRING):
            place = begin, file.tell()
    for _ in range(tensor_count):
        _tensor(file)
    if place is None:
        raise ValueError(f"{file.name} has no text at {wanted}")
    return (*place, file.tell())


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    size = _size(file, layout)
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"{file.name} is cut short: it ends within its head")
    return struct.unpack(layout, data)


def _size(file: BinaryIO, layout: str) -> int:
    """Return how many bytes `layout` asks for; a number that was read from a damaged file can be any."""
    try:
        size = struct.calcsize(layout)
    except struct.error:
        size = _LONGEST + 1
    if size > _LONGEST:
        raise ValueError(f"{file.name} is damaged: it speaks of a list of more than {_LONGEST} bytes at {file.tell()}")
    return size


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    if length > _LONGEST:
        raise ValueError(f"{file.name} is damaged: a string of {length} bytes at {file.tell()}")
    data = file.read(length)
    if len(data) != length:
        raise ValueError(f"{file.name} is cut short: it ends within a string")
    return data.decode("utf-8", errors="replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        item_kind, count = _unpack(file, "<IQ")
        if item_kind == _ARRAY:  # llama.cpp knows none either
            raise ValueError(f"{file.name} is damaged: a list of lists at {file.tell()}")
        if item_kind in _SCALARS:
            return list(_unpack(file, f"<{count}{_SCALARS[item_kind]}"))
        return [_value(file, item_kind) for _ in range(count)]
    if kind not in _SCALARS:
        raise ValueError(f"{file.name} is damaged: a value of unknown kind {kind} at {file.tell()}")
    return _unpack(file, "<" + _SCALARS[kind])[0]


def _tensor(file: BinaryIO) -> GgufTensor:
    name = _string(file)
    (dimensions,) = _unpack(file, "<I")
    if dimensions > _MOST_EXTENTS:
        raise ValueError(f"{file.name} is damaged: a tensor with {dimensions} extents at {file.tell()}")
    shape = _unpack(file, f"<{dimensions}Q")
    kind, offset = _unpack(file, "<IQ")
    return GgufTensor(name, shape, kind, offset)
