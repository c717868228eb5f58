"""Decides how often each row is used, and which rows are held back: by the seed and the dataset's name alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray


def times_of_rows(dataset: Mapping[str, Any], num_samples: int | None, rows: int, seed: int) -> NDArray[np.uint32]:
    """Return how often each row of a dataset is used; shape (rows,).

    At most `maxSamples` rows are drawn, different ones, then `weight` says how often each of them is used. A built-in
    dataset is repeated to reach `maxSamples`, and any dataset to reach `num_samples`, the number that a
    dataset_info.json asks for: all rows as often as goes, and some drawn ones once more.
    """
    cap, repeat = dataset["maxSamples"], dataset["builtin"]
    if num_samples is not None and (cap is None or num_samples < cap):
        cap, repeat = num_samples, True
    times = np.ones(rows, np.uint32)
    if cap is not None and (cap < rows or repeat):
        times = _shared_out(cap, np.arange(rows), rows, f"{seed}/{dataset['name']}")
    weight = Fraction(dataset.get("weight") or "1")
    if weight != 1:
        used = np.flatnonzero(times)
        whole = int(weight)
        rest = max(round((weight - whole) * int(times.sum())), 0 if whole else 1)
        times = times * np.uint32(whole) + _shared_out(rest, used, rows, f"{seed}/{dataset['name']}/weight")
    return times


def _shared_out(total: int, among: NDArray[np.int64], rows: int, seed: str) -> NDArray[np.uint32]:
    """Share `total` uses out evenly `among` some rows; which get the odd ones is drawn."""
    times = np.zeros(rows, np.uint32)
    whole, rest = divmod(total, len(among))
    times[among] = whole
    times[among[random.Random(seed).sample(range(len(among)), rest)]] += 1  # noqa: S311 - not for secrets
    return times


def held_back(count: int, fraction: str, seed: int) -> NDArray[np.bool_]:
    """Return which of `count` rows are held back for validation; shape (count,).

    At least one is held back when `fraction` is above 0, and at least one is left to train on.
    """
    held = np.zeros(count, np.bool_)
    share = float(fraction)
    number = min(count - 1, max(1, round(share * count))) if share > 0 else 0
    held[random.Random(f"{seed}/validation").sample(range(count), number)] = True  # noqa: S311 - not for secrets
    return held
