from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tunesmith_stages.prepare import writing
from tunesmith_stages.prepare.packing import pack
from tunesmith_stages.prepare.writing import PACKED, SAMPLES, Choice, Flat, RowWriter, batch_of, write_rows


def lengths_of(*lengths: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(lengths, np.int32)


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        pytest.param((), [], id="nothing"),
        pytest.param((10,), [[0]], id="just full"),
        pytest.param((6, 6, 4, 4), [[0, 3], [1, 2]], id="pairs"),
        pytest.param((1, 5, 3, 9, 4), [[0, 1, 4], [2], [3]], id="the fullest row that has room"),
        pytest.param((3, 3, 3, 3), [[0, 1, 2], [3]], id="equal ones"),
    ],
)
def test_pack(lengths: tuple[int, ...], rows: list[list[int]]) -> None:
    """The longest sample first, each into the fullest row that has room; rows are in the data's order."""
    assert pack(lengths_of(*lengths), 10) == rows


def test_every_sample_once_and_rows_well_filled() -> None:
    """Each sample is in one row, no row is too long, and little is left empty."""
    lengths = np.random.default_rng(0).integers(20, 300, 5000).astype(np.int32)
    rows = pack(lengths, 2048)
    assert sorted(sample for row in rows for sample in row) == list(range(5000))
    assert max(int(lengths[row].sum()) for row in rows) <= 2048
    assert lengths.sum() / (len(rows) * 2048) > 0.99


def test_datasets_are_repeated_one_after_the_other(tmp_path: Path) -> None:
    """Samples that are used again come again behind their own dataset, each as often as it is used, batch by batch."""
    with RowWriter(tmp_path / "samples", SAMPLES) as file:
        numbers = np.arange(2500, dtype=np.int32)
        file.add(batch_of(Flat(numbers, numbers, np.ones(2500, np.int32))))
    times = np.resize(np.array([1, 0, 3], np.uint32), 2500)
    choice = Choice(lambda start, stop: times[start:stop], [slice(0, 700), slice(700, 700), slice(700, 2500)])
    assert write_rows(tmp_path / "samples", choice, tmp_path / "rows") == times.sum()
    with pa.memory_map(str(tmp_path / "rows")) as file:
        found = pa.ipc.open_file(file).read_all().column("input_ids").combine_chunks().flatten().to_pylist()
    assert found == [
        sample for span in choice.spans for used in range(3) for sample in range(2500)[span] if times[sample] > used
    ]


def test_windows_bound_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are packed window by window: each is there once, and a window's rows come before the next one's."""
    monkeypatch.setattr(writing, "WINDOW_SAMPLES", 100)
    lengths = np.random.default_rng(0).integers(2, 40, 1000).astype(np.int32)
    numbers = np.repeat(np.arange(1000, dtype=np.int32), lengths)
    with RowWriter(tmp_path / "samples", SAMPLES) as file:
        for start in range(0, 1000, 50):
            part = slice(int(lengths[:start].sum()), int(lengths[: start + 50].sum()))
            file.add(batch_of(Flat(numbers[part], -numbers[part], lengths[start : start + 50])))
    choice = Choice(lambda start, stop: np.ones(stop - start, np.uint32), [slice(0, 1000)])
    count = write_rows(tmp_path / "samples", choice, tmp_path / "packed", 128)
    with pa.memory_map(str(tmp_path / "packed")) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.schema == PACKED
    rows = table.to_pylist()
    assert len(rows) == count
    seen = []
    for row in rows:
        samples = np.repeat(range(len(row["lengths"])), row["lengths"])
        for index, length in enumerate(row["lengths"]):
            ids = np.array(row["input_ids"])[samples == index]
            assert len(set(ids)) == 1
            assert lengths[ids[0]] == length
            seen.append(int(ids[0]))
        assert row["labels"] == [-number for number in row["input_ids"]]
    assert sorted(seen) == list(range(1000))
    whole_windows = [sample // 1000 for sample in seen]
    assert whole_windows == sorted(whole_windows)
