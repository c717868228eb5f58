"""Numbers that there is one of for each row or sample: they lie in files without a name, mapped into memory.

What is mapped is the kernel's to drop and to read again, so memory does not grow with the data. A file is gone when
nobody uses it any more.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLE = np.dtype(
    [
        ("row", np.uint64),  # digest of what the sample's row became: equal rows have equal ones
        ("times", np.uint32),  # how often it is used
        ("length", np.int32),  # its tokens
        ("rejected", np.int32),  # of a pair: the tokens of the sample with the rejected answer; else 0
        ("labelled", np.int32),  # those on which loss is taken, of both samples of a pair
        ("first", np.bool_),  # whether it is its row's first
        ("held_out", np.bool_),  # whether its dataset is there to measure with
        ("desirable", np.bool_),  # of a row with a label: what that says
    ],
    align=True,
)
"""What is known of a sample besides its tokens."""
Samples = npt.NDArray[np.void]
"""Of the type SAMPLE."""
AT_ONCE = 1 << 14
"""How many numbers are worked on at a time."""


class KeptSamples:
    """The samples that are kept, in the data's order. All are added before the first is read."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as this is
        self._mapped: Samples = np.zeros(0, SAMPLE)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, samples: Samples) -> None:
        """Add samples behind the others."""
        self._file.write(samples.tobytes())
        self._count += len(samples)

    def part(self, start: int, stop: int) -> Samples:
        """Return some samples by their numbers."""
        if len(self._mapped) != self._count:
            self._file.flush()
            self._mapped = np.memmap(self._file, SAMPLE, mode="r", shape=(self._count,))
        return self._mapped[start:stop]

    def parts(self) -> Iterator[Samples]:
        """Yield all samples, some at a time."""
        for start in range(0, self._count, AT_ONCE):
            yield self.part(start, start + AT_ONCE)


def spooled_zeros(folder: Path, count: int, kind: Any) -> npt.NDArray[Any]:
    """Return an array of so many zeros that lies in a file below `folder`.

    Raises:
        OSError: there is no room for it. A write to a mapped file that finds none would end the process.
    """
    if not count:
        return np.zeros(0, kind)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, count * np.dtype(kind).itemsize)
        return np.memmap(file, kind, mode="r+", shape=(count,))
