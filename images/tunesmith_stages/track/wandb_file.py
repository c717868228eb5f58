"""What a W&B run has written on the volume so far: the last step in its ``.wandb`` files.

The format is that of LevelDB's log (https://github.com/google/leveldb/blob/main/doc/log_format.md) behind a header of
7 bytes; every record is a message ``wandb_internal.Record``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_HEADER = b":W&B"
_HEADER_SIZE = 7
_BLOCK = 32768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def last_step(folder: Path, run: str) -> int:
    """Return the last step that any attempt's folder of `run` below `folder` holds; -1 if none holds one."""
    steps = [step for file in folder.glob(f"*run-*-{run}/run-{run}.wandb") for step, _ in history(file)]
    return max(steps, default=-1)


def history(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield step and values, as JSON, of every row of a run's history."""
    from wandb.proto.wandb_internal_pb2 import Record

    for content in _contents(file.read_bytes()):
        message = Record.FromString(content)
        if message.WhichOneof("record_type") == "history":
            items = message.history.item
            yield (
                int(message.history.step.num),
                {item.key or ".".join(item.nested_key): item.value_json for item in items},
            )


def _contents(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log; what is not whole at its end is left out."""
    if not data.startswith(_HEADER):
        return
    place, parts = _HEADER_SIZE, b""
    while place + 7 <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < 7:  # no room for a header: filled with zeros
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        part = data[place + 7 : place + 7 + length]
        if kind not in {_FULL, _FIRST, _MIDDLE, _LAST} or len(part) < length:
            return
        parts = part if kind in {_FULL, _FIRST} else parts + part
        if kind in {_FULL, _LAST}:
            yield parts
        place += 7 + length
