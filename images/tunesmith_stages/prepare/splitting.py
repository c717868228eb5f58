"""Decides which rows are held back for validation, so that nothing is both trained on and measured with.

Rows that became the same tokens go together. A row's digest, in which the seed has a part, is also its place in the
draw: the rows with the lowest ones are held back, and nobody needs to remember more than how far that goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tunesmith_stages.prepare.spool import AT_ONCE, KeptSamples, Samples, spooled_zeros

Digests = npt.NDArray[np.uint64]
Times = npt.NDArray[np.uint32]
"""How often each of some samples is used."""

_MOST_PASSED_OVER = 1000
"""So many groups of equal rows that are too large are passed over; then fewer rows are held back than asked for."""


@dataclass(frozen=True)
class Split:
    """Which samples are trained on, and which are measured with."""

    last: np.uint64 | None
    """Rows with digests up to this one are held back; None: no row is."""
    passed_over: Digests
    """The digests up to `last` of rows that are not."""
    duplicates: int = 0
    """Rows to train on, or held back from it, that equal an earlier one."""
    measured_and_trained: int = 0
    """Rows of datasets with ``use: Validation`` that equal one that is trained on."""

    def holds_back(self, rows: Digests) -> npt.NDArray[np.bool_]:
        """Say of each digest whether rows that have it are held back."""
        if self.last is None:
            return np.zeros(len(rows), np.bool_)
        return (rows <= self.last) & ~np.isin(rows, self.passed_over)

    def trained(self, samples: Samples) -> Times:
        """Return how often each sample is trained on."""
        not_trained = samples["held_out"] | self.holds_back(samples["row"])
        return np.where(not_trained, np.uint32(0), samples["times"])

    def measured(self, samples: Samples) -> Times:
        """Return how often each sample is measured with: one that is held back once, however often it is used."""
        return np.where(samples["held_out"], samples["times"], self.holds_back(samples["row"]).astype(np.uint32))


def split(kept: KeptSamples, fraction: str, folder: Path) -> Split:
    """Return which rows are held back; `folder` is where the digests are sorted."""
    digests = _sorted(kept, folder)
    last, passed_over = held_back(digests, fraction)
    held = Split(last, passed_over)
    measured = sum(
        int(np.count_nonzero(_are_among(rows, digests) & ~held.holds_back(rows))) for rows in _rows(kept, held_out=True)
    )
    return Split(last, passed_over, _equal_to_the_one_before(digests), measured)


def held_back(digests: Digests, fraction: str) -> tuple[np.uint64 | None, Digests]:
    """Return up to which digest rows are held back, and which digests up to there are passed over.

    So many rows as the fraction says are held back, but at least one, and at least one is left to train on. Of equal
    rows all are, or none: a group that would be too many is passed over, and those behind it are taken. Where every
    group is too large, the smallest is held back; where all rows are equal, none.

    Args:
        digests: of each row, sorted.
        fraction: from 0 to below 1, as a decimal.
    """
    count, share = len(digests), float(fraction)
    number = min(count - 1, max(1, round(share * count))) if share > 0 else 0
    if number <= 0 or digests[0] == digests[-1]:
        return None, digests[:0]
    sizes: dict[np.uint64, int] = {}
    """Of the groups that are passed over."""
    stop = number
    while stop < count and digests[stop - 1] == digests[stop]:
        start, end = (int(np.searchsorted(digests, digests[stop], side)) for side in ("left", "right"))
        sizes[digests[start]] = end - start
        if len(sizes) == _MOST_PASSED_OVER:
            stop = end
            break
        stop += end - start
    stop = min(stop, count)
    if stop == sum(sizes.values()):
        del sizes[min(sizes, key=sizes.__getitem__)]
    return digests[stop - 1], np.array(list(sizes), np.uint64)


def _sorted(kept: KeptSamples, folder: Path) -> Digests:
    """Return the digests of all rows that may be trained on, in their order."""
    count = sum(map(len, _rows(kept, held_out=False)))
    digests: Digests = spooled_zeros(folder, count, np.uint64)
    start = 0
    for rows in _rows(kept, held_out=False):
        digests[start : start + len(rows)] = rows
        start += len(rows)
    digests.sort()
    return digests


def _rows(kept: KeptSamples, *, held_out: bool) -> Iterator[Digests]:
    """Yield the digests of the rows of some datasets, some at a time."""
    for samples in kept.parts():
        yield samples["row"][samples["first"] & (samples["held_out"] == held_out)]


def _equal_to_the_one_before(digests: Digests) -> int:
    pieces = (digests[start : start + AT_ONCE + 1] for start in range(0, len(digests), AT_ONCE))
    return sum(int(np.count_nonzero(piece[1:] == piece[:-1])) for piece in pieces)


def _are_among(rows: Digests, digests: Digests) -> npt.NDArray[np.bool_]:
    """Say of each of `rows` whether it is among the sorted digests."""
    if not len(digests):
        return np.zeros(len(rows), np.bool_)
    places = np.minimum(np.searchsorted(digests, rows), len(digests) - 1)
    found: npt.NDArray[np.bool_] = digests[places] == rows
    return found
