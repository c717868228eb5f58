"""TensorBoard's files: a TFRecord file of ``Event`` messages, as much of the format as numbers and texts need.

Framing: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details; messages:
``tensorboard/compat/proto/{event,summary,tensor,types}.proto``. They are simple enough to write by hand: TensorBoard
itself would bring a web server into the image. The tests read the files with TensorBoard's own reader.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_LARGEST = 3.4028234663852886e38  # of single precision
_STRING = 7  # DataType.DT_STRING
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)  # noqa: PLW2901 - that is how it is computed
        table.append(value)
    return tuple(table)


_TABLE = _table()


def masked_crc(data: bytes) -> int:
    """Return the checksum of a record's part: CRC-32C, rotated right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(message: bytes) -> bytes:
    """Return a message in its frame: length, checksum of that, message, checksum of that."""
    length = struct.pack("<Q", len(message))
    return length + struct.pack("<I", masked_crc(length)) + message + struct.pack("<I", masked_crc(message))


def messages(file: Path) -> Iterator[bytes]:
    """Yield the messages of a file; a last one that was cut off, and what follows a damaged one, is left out."""
    data, place = file.read_bytes(), 0
    while len(data) >= place + 12:
        header = data[place : place + 8]
        (length,) = struct.unpack("<Q", header)
        message = data[place + 12 : place + 12 + length]
        if record(message)[: len(message) + 16] != data[place : place + length + 16]:
            return
        yield message
        place += length + 16


# --- messages of protocol buffers (https://protobuf.dev/programming-guides/encoding/) --------------------------------


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def _whole(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _single(field: int, value: float) -> bytes:
    """Return a number in single precision; one that is too large for that is infinite there."""
    if math.isfinite(value) and abs(value) > _LARGEST:
        value = math.copysign(math.inf, value)
    return struct.pack("<Bf", field << 3 | 5, value)


def _event(time: float, content: bytes) -> bytes:
    return struct.pack("<Bd", 1 << 3 | 1, time) + content


def version(time: float) -> bytes:
    """Return the message that every file begins with."""
    return _event(time, _bytes(3, b"brain.Event:2"))


def scalars(time: float, step: int, values: Mapping[str, float]) -> bytes:
    """Return numbers of a step."""
    summary = b"".join(_bytes(1, _bytes(1, name.encode()) + _single(2, value)) for name, value in values.items())
    return _event(time, _whole(2, step) + _bytes(5, summary))


def text(time: float, name: str, content: str) -> bytes:
    """Return a text in Markdown, for TensorBoard's page of texts."""
    tensor = _whole(1, _STRING) + _bytes(2, _bytes(2, _whole(1, 1))) + _bytes(8, content.encode())
    metadata = _bytes(1, _bytes(1, b"text"))
    value = _bytes(1, name.encode()) + _bytes(9, metadata) + _bytes(8, tensor)
    return _event(time, _bytes(5, _bytes(1, value)))


def step_and_names(message: bytes) -> tuple[int, list[str]]:
    """Return the step of a message of :func:`scalars` and the names of its numbers; of others, 0 and none."""
    fields = dict(_fields(message))
    values = [dict(_fields(value)) for _, value in _fields(fields.get(5, b""))]
    names = [value[1].decode() for value in values if 2 in value]  # a number, not a text
    return fields.get(2, 0), names


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of every field: a number, or the bytes of all else, also of numbers of fixed size."""
    place = 0
    while place < len(message):
        tag, place = _read_varint(message, place)
        kind = tag & 7
        if kind == 0:
            number, place = _read_varint(message, place)
            yield tag >> 3, number
            continue
        size, place = _read_varint(message, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
        yield tag >> 3, message[place : place + size]
        place += size


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
