"""How much `convert` writes, and whether the disk holds it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.safetensors_file import TensorInfo
from tunesmith_stages.program import StageError

_SLACK = 64 * 1024 * 1024
_BYTES: Mapping[str, Fraction] = {
    "F32": Fraction(4),
    "F16": Fraction(2),
    "BF16": Fraction(2),
    "Q8_0": Fraction(34, 32),  # blocks of 32 numbers with a scale of two bytes
}
"""Bytes of a weight in each type that a model may be converted to. A few are written in four, but they are small."""


@dataclass(frozen=True)
class Sizes:
    """How much is to be written, in bytes."""

    weights: int
    """As training left them."""
    gguf: int


def require_space(folder: Path, tensors: Iterable[TensorInfo], out_type: str, *, merges: bool) -> Sizes:
    """Return how much is to be written, if it fits on the volume.

    Args:
        folder: a place on the volume.
        tensors: the model's.
        out_type: what it is converted to.
        merges: whether the weights themselves are written once more.

    Raises:
        StageError: it does not fit.
    """
    infos = list(tensors)
    sizes = Sizes(sum(info.size for info in infos), int(_BYTES[out_type] * sum(info.elements for info in infos)))
    needed = sizes.gguf + _SLACK + (sizes.weights if merges else 0)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StageError(
            ExitCode.NO_SPACE,
            f"converting needs {needed / 2**30:.2f} GiB on the volume and {free / 2**30:.2f} GiB are free",
        )
    return sizes
