from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.dataset_files import dataset
from tunesmith_stages.prepare.mixing import times_of_rows

_SCRATCH = Path(tempfile.gettempdir())


def times(rows: int = 20, *, num_samples: int | None = None, seed: int = 1, **changes: Any) -> list[int]:
    found: list[int] = times_of_rows(dataset(**changes), num_samples, rows, seed, _SCRATCH).tolist()
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


def test_every_row_is_drawn_about_as_often() -> None:
    """No row has a better chance than another, wherever it stands: over many seeds each is drawn about as often."""
    drawn = np.sum([times(50, maxSamples=10, seed=seed) for seed in range(400)], axis=0)
    assert drawn.sum() == 4000
    assert (np.abs(drawn - 80) < 5 * np.sqrt(400 * 0.2 * 0.8)).all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"maxSamples": 1000}, {"maxSamples": 900_000, "weight": "1.5"}, {"weight": "2"}],
    ids=["all rows", "some rows", "most rows, weighed", "twice"],
)
def test_a_million_rows_cost_no_memory(changes: dict[str, Any]) -> None:
    """However many rows there are, and whatever is drawn of them, memory hardly grows."""
    count = 1_000_000
    tracemalloc.start()
    found = times_of_rows(dataset(**changes), None, count, 1, _SCRATCH)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < count
    assert found.shape == (count,)
