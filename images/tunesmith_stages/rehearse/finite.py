"""Reads every number of the weights once and proves that none is NaN or infinite; the memory it takes is fixed.

Such a number poisons all that is computed with it: the loss is NaN from the first step on. One is enough, so all are
read. A floating-point number is finite if not all bits of its exponent are set (IEEE 754), so it is compared as a whole
number, without converting it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.safetensors_file import TensorInfo
from tunesmith_stages.program import StageError
from tunesmith_stages.rehearse.weights import Weights

_BLOCK = 8 * 1024 * 1024
_FORMATS: dict[str, tuple[type[np.unsignedinteger[Any]], int, int]] = {
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "F32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
    "F64": (np.uint64, 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
}
"""For each format: whole numbers of its size, all bits but the sign, and the smallest value that is not finite."""


def are_finite(weights: Weights, advance: Callable[[int], None]) -> str:
    """All weights are finite numbers.

    Args:
        weights: what is read.
        advance: told of the bytes read.

    Raises:
        StageError: one is NaN or infinite; the tensor is named.
    """
    buffer = np.empty(_BLOCK, np.uint8)
    total = 0
    for weight_file in weights.files:
        with weight_file.path.open("rb", buffering=0) as file:
            for info in sorted(weight_file.tensors.values(), key=lambda info: info.begin):
                total += _read(file, info, buffer, advance)
    return f"{total:,} numbers are finite"


def _read(file: BinaryIO, info: TensorInfo, buffer: npt.NDArray[np.uint8], advance: Callable[[int], None]) -> int:
    """Read one tensor through `buffer`; return how many numbers it has."""
    if info.dtype not in _FORMATS:
        return 0
    kind, mask, limit = _FORMATS[info.dtype]
    file.seek(info.begin)
    left = info.size
    while left:
        block = buffer[: min(left, _BLOCK)]
        _fill(file, block, info)
        numbers = block.view(kind)
        np.bitwise_and(numbers, kind(mask), out=numbers)
        if numbers.max() >= limit:
            raise StageError(
                ExitCode.BAD_DATA,
                f"{_count(file, info):,} of the {info.elements:,} numbers of {info.name} in the base's weights are NaN "
                "or infinite",
                reason="WeightsNotFinite",
                hint="Fetch the base again. If it was trained, it had gone wrong before: take an earlier checkpoint.",
            )
        left -= len(block)
        advance(len(block))
    return info.elements


def _fill(file: BinaryIO, block: npt.NDArray[np.uint8], info: TensorInfo) -> None:
    view = memoryview(block)  # type: ignore[arg-type] # an array is one
    done = 0
    while done < len(view):
        read = file.readinto(view[done:])  # type: ignore[attr-defined] # FileIO has it
        if not read:
            raise StageError(ExitCode.BAD_DATA, f"{info.name} is cut short in the base's weights", reason="BadWeights")
        done += read


def _count(file: BinaryIO, info: TensorInfo) -> int:
    """Return how many numbers of a tensor are not finite."""
    kind, mask, limit = _FORMATS[info.dtype]
    numbers = np.memmap(str(file.name), kind, "r", info.begin, (info.elements,))
    return sum(int(((part & kind(mask)) >= limit).sum()) for part in np.array_split(numbers, 1 + info.size // _BLOCK))
