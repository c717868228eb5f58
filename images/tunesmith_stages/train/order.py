"""Which rows enter which step on which rank. Pure.

The rows of a step depend on the seed, the epoch and the global batch size alone. How a step is split into ranks and
passes changes nothing but who computes what, which is why the split enters no content key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Split:
    """How a global batch is shared out: ``ranks * micro * accumulation`` rows."""

    ranks: int
    micro: int
    """Rows that a rank takes through the model at once."""
    accumulation: int

    @property
    def rows(self) -> int:
        """Rows of a whole global batch."""
        return self.ranks * self.micro * self.accumulation


def epoch_order(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order in which an epoch takes the rows."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def tokens_per_step(lengths: npt.NDArray[np.int64], batch: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return how many tokens each step of an epoch takes, over all ranks and without padding."""
    order = epoch_order(len(lengths), seed, epoch)
    return np.add.reduceat(lengths[order], np.arange(0, len(order), batch))


class MicroBatches:
    """The batches of one rank in one epoch: always whole steps; the last step's passes may be short or empty."""

    def __init__(self, rows: int, split: Split, rank: int, seed: int) -> None:
        self._rows = rows
        self._split = split
        self._rank = rank
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of epoch `epoch`, counted from 0."""
        self._epoch = epoch

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-self._rows // self._split.rows)

    def __len__(self) -> int:
        return self.steps * self._split.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        order = epoch_order(self._rows, self._seed, self._epoch)
        split = self._split
        for first in range(0, self._rows, split.rows):
            step = order[first : first + split.rows]
            for turn in range(split.accumulation):
                start = (turn * split.ranks + self._rank) * split.micro
                yield step[start : start + split.micro].tolist()


def eval_batches(rows: int, ranks: int, micro: int, rank: int) -> list[list[int]]:
    """Return one rank's batches of the held-out rows: each row once over all ranks, equally many batches on each."""
    firsts = range(0, rows, ranks * micro)
    return [list(range(rows)[first + rank * micro : first + (rank + 1) * micro]) for first in firsts]
