"""Adds a LoRA adapter to the base's weights, block of rows by block of rows.

Computed in float32 on the base's original precision and rounded once to the base's dtype. (PEFT rounds the product
first and the sum again: ours is never farther from the exact sum.) Memory: a few blocks, whatever the model's size.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.adapter import Adapter, LowRankDelta
from tunesmith_stages.convert.safetensors_file import (
    FLOATS,
    INDEX,
    Bytes,
    SafetensorsFile,
    SafetensorsWriter,
    TensorInfo,
    as_float32,
    from_float32,
    weight_files,
)
from tunesmith_stages.program import StageError

_BLOCK = 16 * 1024 * 1024
"""Bytes of a tensor that are worked on at once."""


def merge(base: Path, adapter: Adapter, out: Path, advance: Callable[[int], None]) -> int:
    """Write the base's weight files with the adapter merged in, under their own names, into `out`.

    `advance` is told the bytes written. Returns the number of tensors that the adapter changed.

    Raises:
        StageError: adapter and base don't fit together, or a merged weight is not finite.
    """
    files = [SafetensorsFile(path) for path in weight_files(base)]
    adapter.require_fits({name: info for file in files for name, info in file.tensors.items()})
    merged = sum(_merge_file(file, adapter, out / file.path.name, advance) for file in files)
    if (base / INDEX).is_file():
        shutil.copyfile(base / INDEX, out / INDEX)
        _require_indexed(out / INDEX, files)
    return merged


def _merge_file(file: SafetensorsFile, adapter: Adapter, target: Path, advance: Callable[[int], None]) -> int:
    tensors = sorted(file.tensors.values(), key=lambda info: info.begin)
    merged = 0
    with SafetensorsWriter(target, tensors, file.metadata) as writer:
        for info in tensors:
            if info.name in adapter.tensors:
                writer.write(info.name, _merged(file.bytes_of(info.name), info, adapter.delta(info.name)))
                merged += 1
            else:
                writer.write(info.name, _copied(file.bytes_of(info.name)))
            advance(info.size)
    return merged


def _copied(data: Bytes) -> Iterator[Bytes]:
    for first in range(0, data.size, _BLOCK):
        yield data[first : first + _BLOCK]


def _merged(data: Bytes, info: TensorInfo, delta: LowRankDelta) -> Iterator[Bytes]:
    if info.dtype not in FLOATS:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the base tensor {info.name} is stored as {info.dtype}; an adapter can be merged into {', '.join(FLOATS)}",
            reason="BaseDtypeUnsupported",
            hint="Use the base in its original precision.",
        )
    rows, columns = info.shape
    stride = info.size // rows
    step = max(1, _BLOCK // stride)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        block = as_float32(data[first * stride : last * stride], info.dtype).reshape(-1, columns)
        with np.errstate(all="ignore"):  # looked for below
            block += np.float32(delta.scale) * (delta.left[first:last] @ delta.right)
            if delta.magnitude is not None:
                lengths = np.linalg.norm(block, axis=1)
                block *= (delta.magnitude[first:last] / lengths)[:, None]
        rounded = from_float32(block, info.dtype)
        if not np.isfinite(as_float32(rounded, info.dtype)).all():
            raise StageError(
                ExitCode.GATE_FAILED,
                f"the merged weight {info.name} holds numbers that {info.dtype} cannot (infinite or NaN)",
                reason="WeightsNotFinite",
                hint="The training diverged. Lower the learning rate.",
            )
        yield rounded


def _require_indexed(index: Path, files: list[SafetensorsFile]) -> None:
    listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    present = {name: file.path.name for file in files for name in file.tensors}
    if listed != present:
        wrong = sorted(name for name in listed.keys() | present.keys() if listed.get(name) != present.get(name))
        raise StageError(
            ExitCode.BAD_DATA,
            f"the base's {INDEX} and its weight files disagree on {len(wrong)} tensors: {', '.join(wrong[:5])}",
            reason="BadWeights",
        )
