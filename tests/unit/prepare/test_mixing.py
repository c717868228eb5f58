from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from support.dataset_files import dataset
from tunesmith_stages.prepare.mixing import held_back, times_of_rows


def times(rows: int = 20, *, num_samples: int | None = None, seed: int = 1, **changes: Any) -> list[int]:
    found: list[int] = times_of_rows(dataset(**changes), num_samples, rows, seed).tolist()
    return found


@pytest.mark.parametrize("cap", [None, 20, 21, 1000])
def test_without_need_nothing_is_drawn(cap: int | None) -> None:
    """A cap that is not reached changes nothing."""
    assert times(maxSamples=cap) == [1] * 20


@pytest.mark.parametrize("cap", [1, 7, 19])
def test_a_sample_has_the_size_that_was_asked_for(cap: int) -> None:
    """A cap below the number of rows draws so many different ones."""
    assert sorted(times(maxSamples=cap)) == [0] * (20 - cap) + [1] * cap


@pytest.mark.parametrize("cap", [5, 20, 47, 60])
def test_built_in_data_is_repeated(cap: int) -> None:
    """A built-in dataset goes round until there are so many rows, each as often as the others or once more."""
    found = times(maxSamples=cap, builtin=True)
    assert sum(found) == cap
    assert max(found) - min(found) <= 1


@pytest.mark.parametrize(
    ("samples", "cap", "total"), [(7, None, 7), (50, None, 50), (7, 12, 7), (50, 12, 12), (50, 30, 20)]
)
def test_samples_of_a_dataset_info(samples: int, cap: int | None, total: int) -> None:
    """The number that an entry asks for is reached, by repeating if need be, unless the job's cap is below it."""
    assert sum(times(num_samples=samples, maxSamples=cap)) == total


WEIGHTS: dict[str, tuple[str, int | None, int, set[int]]] = {
    "one": ("1", None, 20, {1}),
    "twice": ("2", None, 40, {2}),
    "half": ("0.5", None, 10, {0, 1}),
    "one and a half": ("1.5", None, 30, {1, 2}),
    "a tenth of three": ("0.1", 3, 1, {0, 1}),
    "three times seven": ("3.0", 7, 21, {0, 3}),
    "nearly nothing": ("0.0001", None, 1, {0, 1}),
    "an exponent": ("2e-1", None, 4, {0, 1}),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str) -> None:
    """A weight says how often each row is used, after the cap; what does not come out even is drawn."""
    weight, cap, total, counts = WEIGHTS[name]
    found = times(weight=weight, maxSamples=cap)
    assert sum(found) == total
    assert set(found) == counts


def test_weights_of_drawn_rows() -> None:
    """A weight takes no row that the cap left out."""
    capped = np.array(times(maxSamples=10))
    assert np.array_equal(np.array(times(maxSamples=10, weight="2")), capped * 2)
    assert not np.array(times(maxSamples=10, weight="0.5"))[capped == 0].any()


def test_draw_depends_on_seed_and_name_alone() -> None:
    """The same seed draws the same rows on every machine; another seed or another dataset draws others."""
    for changes in ({"maxSamples": 7}, {"weight": "0.5"}):
        assert times(**changes) == times(**changes)
        assert times(**changes) != times(**changes, seed=2)
        assert times(**changes) != times(**changes, name="other")


def test_draw_is_the_one_of_the_first_version() -> None:
    """The rows that a seed drew in earlier versions are still drawn."""
    drawn = random.Random("42/faq").sample(range(100), 30)  # noqa: S311 - not for secrets
    assert [index for index, count in enumerate(times(100, maxSamples=30, seed=42)) if count] == sorted(drawn)
    again = random.Random("42/self").sample(range(80), 40)  # noqa: S311 - not for secrets
    found = times(80, maxSamples=200, builtin=True, seed=42, name="self")
    assert [index for index, count in enumerate(found) if count == 3] == sorted(again)


@pytest.mark.parametrize(
    ("count", "fraction", "number"),
    [(100, "0", 0), (100, "0.1", 10), (100, "0.001", 1), (3, "0.99", 2), (1, "0.5", 0), (1000, "0.255", 255)],
)
def test_rows_held_back(count: int, fraction: str, number: int) -> None:
    """A fraction holds back at least one row and leaves at least one; the draw is that of earlier versions."""
    held = held_back(count, fraction, 42)
    assert held.shape == (count,)
    assert set(np.flatnonzero(held)) == set(random.Random("42/validation").sample(range(count), number))  # noqa: S311


def test_another_seed_holds_other_rows_back() -> None:
    """Which rows are held back depends on the seed."""
    assert not np.array_equal(held_back(100, "0.1", 42), held_back(100, "0.1", 43))


def test_a_million_rows_cost_little() -> None:
    """How often rows are used is held in four bytes for each."""
    found = times_of_rows(dataset(maxSamples=1000, weight="1.5"), None, 1_000_000, 1)
    assert found.nbytes == 4_000_000
    assert found.sum() == 1500
