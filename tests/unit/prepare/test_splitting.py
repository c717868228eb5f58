from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tunesmith_stages.prepare import splitting
from tunesmith_stages.prepare.splitting import Split, split
from tunesmith_stages.prepare.spool import SAMPLE, KeptSamples, Samples


def kept(
    folder: Path, digests: Sequence[int], *, held_out: Sequence[int] = (), samples: int = 1, times: int = 1
) -> KeptSamples:
    """Return rows with such digests, those of a dataset to measure with behind them."""
    found = KeptSamples(folder)
    for rows, own in ((digests, False), (held_out, True)):
        made = np.zeros(len(rows) * samples, SAMPLE)
        made["row"] = np.repeat(np.array(rows, np.uint64), samples)
        made["first"] = np.arange(len(made)) % samples == 0
        made["times"], made["held_out"] = times, own
        found.add(made)
    return found


def everything(found: KeptSamples) -> Samples:
    return found.part(0, len(found))


def random_digests(count: int) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(0).integers(0, 2**64, count, np.uint64)


@pytest.mark.parametrize(
    ("rows", "fraction", "held"),
    [
        (30, "0", 0),
        (30, "0.0", 0),
        (30, "0.1", 3),
        (30, "0.001", 1),
        (30, "0.999999999", 29),
        (1000, "0.255", 255),
        (2, "0.5", 1),
        (1, "0.5", 0),
    ],
)
def test_sizes(rows: int, fraction: str, held: int, tmp_path: Path) -> None:
    """Just the share that was asked for is held back: at least one row if any, and never the last one to train on."""
    found = kept(tmp_path, random_digests(rows).tolist())
    sides = split(found, fraction, tmp_path)
    train, validation = sides.trained(everything(found)), sides.measured(everything(found))
    assert (train.sum(), validation.sum()) == (rows - held, held)
    assert (train + validation == 1).all()


GROUPS: dict[str, tuple[list[int], str, list[int]]] = {
    "the lowest": ([5, 1, 4, 2, 3], "0.4", [1, 2]),
    "a group that just fits": ([1, 1, 2, 3, 4], "0.4", [1, 1]),
    "a group that is too large": ([1, 1, 1, 2, 3, 4], "0.3", [2, 3]),
    "a group that is too large for what is left": ([1, 2, 2, 3, 4, 5], "0.34", [1, 3]),
    "too large ones behind each other": ([1, 1, 1, 2, 2, 2, 3, 3, 4, 5], "0.2", [3, 3]),
    "nothing fits in what is left": ([1, 2, 2, 3, 3], "0.4", [1]),
    "all are too large": ([2, 2, 2, 1, 1, 3, 3, 3], "0.1", [1, 1]),
    "all are too large, the last the smallest": ([1, 1, 1, 2, 2, 2, 3, 3], "0.1", [3, 3]),
    "all rows are equal": ([7] * 9, "0.1", []),
    "the highest digest there is": ([2**64 - 1, 2**64 - 1, 0, 0, 0], "0.4", [2**64 - 1, 2**64 - 1]),
}


@pytest.mark.parametrize("name", GROUPS)
def test_equal_rows_stay_together(name: str, tmp_path: Path) -> None:
    """Of equal rows all are held back or none, and the share is kept as well as that allows."""
    digests, fraction, held = GROUPS[name]
    found = kept(tmp_path, digests)
    sides = split(found, fraction, tmp_path)
    validation = sides.measured(everything(found))
    assert sorted(row for row, times in zip(digests, validation, strict=True) if times) == held
    assert (sides.trained(everything(found)) + validation == 1).all()


def test_many_large_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many groups do not fit, little is remembered of them: fewer rows are held back then."""
    monkeypatch.setattr(splitting, "_MOST_PASSED_OVER", 3)
    found = kept(tmp_path, [1, *[digest for digest in range(2, 50) for _ in range(2)], 50])
    sides = split(found, "0.02", tmp_path)
    assert everything(found)["row"][sides.measured(everything(found)) > 0].tolist() == [1]
    assert len(sides.passed_over) == 3


def test_a_row_is_held_back_with_all_its_samples(tmp_path: Path) -> None:
    """No copy of a row that is held back is trained on, nor another answer of its conversation."""
    found = kept(tmp_path, range(10), samples=3, times=2)
    sides = split(found, "0.3", tmp_path)
    assert sides.measured(everything(found)).tolist() == [1] * 9 + [0] * 21
    assert sides.trained(everything(found)).tolist() == [0] * 9 + [2] * 21
    assert sides.duplicates == 0


def test_a_dataset_of_its_own_to_measure_with(tmp_path: Path) -> None:
    """A dataset that is there for validation is not trained on, and nothing else is held back for it."""
    found = kept(tmp_path, [1, 2, 3], held_out=[4, 5], times=2)
    sides = split(found, "0", tmp_path)
    assert sides.trained(everything(found)).tolist() == [2, 2, 2, 0, 0]
    assert sides.measured(everything(found)).tolist() == [0, 0, 0, 2, 2]


COUNTED: dict[str, tuple[list[int], list[int], str, int, int]] = {
    "none": ([3, 1, 2], [4, 4], "0", 0, 0),
    "twice and three times": ([3, 1, 3, 2, 1, 3], [], "0", 3, 0),
    "trained on, too": ([3, 1, 2], [2, 9, 2], "0", 0, 2),
    "held back here and there": ([3, 1, 2], [1, 2], "0.33", 0, 1),
}


@pytest.mark.parametrize("name", COUNTED)
def test_what_is_told(name: str, tmp_path: Path) -> None:
    """Rows that equal an earlier one are counted, and those to measure with that are trained on."""
    digests, held_out, fraction, duplicates, trained = COUNTED[name]
    sides = split(kept(tmp_path, digests, held_out=held_out, samples=2), fraction, tmp_path)
    assert (sides.duplicates, sides.measured_and_trained) == (duplicates, trained)


def test_duplicates_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal rows are found where one piece of the work ends and the next begins."""
    monkeypatch.setattr(splitting, "AT_ONCE", 2)
    assert split(kept(tmp_path, [1, 2, 2, 3, 3, 3, 4, 5, 5]), "0", tmp_path).duplicates == 4


def test_a_million_rows_cost_no_memory(tmp_path: Path) -> None:
    """What is held back of a million rows, some twice, is known with next to no memory."""
    found = KeptSamples(tmp_path)
    made = np.zeros(1000, SAMPLE)
    made["first"], made["times"] = True, 1
    rng = np.random.default_rng(0)
    for _ in range(1000):
        made["row"] = rng.integers(0, 2**42, len(made), np.uint64)
        found.add(made)
    tracemalloc.start()
    sides = split(found, "0.1", tmp_path)
    measured = sum(int(sides.measured(samples).sum()) for samples in found.parts())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(sides, Split)
    assert measured == 100_000
    assert peak < 2_000_000
