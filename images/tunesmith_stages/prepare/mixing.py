"""Decides how often each row is used: by the seed and the dataset's name alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith_stages.prepare.spool import AT_ONCE, spooled_zeros

Times = NDArray[np.uint32]
Numbers = NDArray[np.uint64]


def times_of_rows(dataset: Mapping[str, Any], num_samples: int | None, rows: int, seed: int, folder: Path) -> Times:
    """Return how often each row of a dataset is used; shape (rows,).

    At most `maxSamples` rows are drawn, different ones, then `weight` says how often each of them is used. A built-in
    dataset is repeated to reach `maxSamples`, and any dataset to reach `num_samples`, the number that a
    dataset_info.json asks for: all rows as often as goes, and some drawn ones once more.

    Args:
        dataset: what the stage's parameters say of it.
        num_samples: see above.
        rows: that it has.
        seed: of all that is drawn.
        folder: where the numbers may lie; they need no memory.
    """
    cap, repeat = dataset["maxSamples"], dataset["builtin"]
    if num_samples is not None and (cap is None or num_samples < cap):
        cap, repeat = num_samples, True
    times: Times = np.broadcast_to(np.uint32(1), (rows,))
    if cap is not None and (cap < rows or repeat):
        times = _shared_out(cap, times, 0, f"{seed}/{dataset['name']}", folder)
    weight = Fraction(dataset.get("weight") or "1")
    if weight != 1:
        whole = int(weight)
        rest = max(round((weight - whole) * int(times.sum())), 0 if whole else 1)
        times = _shared_out(rest, times, whole, f"{seed}/{dataset['name']}/weight", folder)
    return times


def _shared_out(total: int, used: Times, as_often: int, seed: str, folder: Path) -> Times:
    """Share `total` uses out evenly among rows that are `used`, on top of `as_often` what they are used for already.

    The odd ones get the rows with the lowest numbers of those that are drawn for each.
    """
    times: Times = spooled_zeros(folder, len(used), np.uint32)
    drawn: Numbers = spooled_zeros(folder, int(np.count_nonzero(used)), np.uint64)
    begin = 0
    for _, numbers in _draw(used, seed):
        drawn[begin : begin + len(numbers)] = numbers
        begin += len(numbers)
    drawn.sort()
    whole, odd = divmod(total, len(drawn))
    for rows, numbers in _draw(used, seed):
        more = numbers < drawn[odd]  # they are all different
        times[rows] = used[rows] * np.uint32(as_often) + np.uint32(whole) + more
    return times


def _draw(used: Times, seed: str) -> Iterator[tuple[NDArray[np.intp], Numbers]]:
    """Yield the rows that are used and a random number for each, some at a time.

    The numbers are those of SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014).
    """
    first = np.frombuffer(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "<u8")
    for start in range(0, len(used), AT_ONCE):
        rows = start + np.flatnonzero(used[start : start + AT_ONCE])
        mixed = first + (rows + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        yield rows, mixed ^ (mixed >> np.uint64(31))
