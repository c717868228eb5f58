"""The samples that an importance matrix is computed on, and how many of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.prepared import write_rows
from tunesmith_stages.importance_matrix import chunks_for, spread_rows


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 55, 100, 101])
def test_every_row_comes_once_and_all_parts_early(tmp_path: Path, count: int) -> None:
    """However many rows there are, each comes once, and a tenth of them comes from all over the file."""
    path = tmp_path / "train.arrow"
    write_rows(path, [([number], [number]) for number in range(count)])
    order = [ids[0] for ids in spread_rows(path)]
    assert sorted(order) == list(range(count))
    assert order == [ids[0] for ids in spread_rows(path)]
    if count >= 50:
        assert {number * 5 // count for number in order[: count // 5]} == set(range(5))


@pytest.mark.parametrize(
    ("weights", "chunks"), [(10_000, 128), (8 * 10**9, 128), (16 * 10**9, 64), (70 * 10**9, 32), (10**12, 32)]
)
def test_larger_models_look_at_less(weights: int, chunks: int) -> None:
    """The work has a bound that goes by the model's size, and never falls below what a matrix needs."""
    assert chunks_for(weights) == chunks
