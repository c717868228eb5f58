from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from support.prepared import packed_rows, random_rows, write_packed_rows, write_rows
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.rows import Row, Rows, pad


def test_reads_rows_across_record_batches(tmp_path: Path) -> None:
    """Rows come back as written, whichever record batch they are in."""
    written = random_rows(20)
    write_rows(tmp_path / "rows.arrow", written, batch=6)
    rows = Rows(tmp_path / "rows.arrow")
    assert [(row.ids.tolist(), row.labels.tolist()) for row in (rows[index] for index in range(len(rows)))] == written
    assert not rows.packed
    assert rows[0].samples is None
    assert rows.lengths.tolist() == [len(ids) for ids, _ in written]
    every = [token for ids, _ in written for token in ids]
    assert rows.id_range() == (min(every), max(every))


def test_rows_are_not_copied(tmp_path: Path) -> None:
    """A row is a view of the mapped file, so that data larger than memory can be trained on."""
    write_rows(tmp_path / "rows.arrow", random_rows(3))
    before = pa.total_allocated_bytes()
    row = Rows(tmp_path / "rows.arrow")[1]
    assert not row.ids.flags.owndata
    assert pa.total_allocated_bytes() == before


def test_pads_to_the_longest_row() -> None:
    """Padding is masked and carries no loss."""
    rows = [_row([5, 6, 7], [-100, 6, 7]), _row([8], [-100])]
    batch = {name: array.tolist() for name, array in pad(rows).items()}
    assert batch == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[-100, 6, 7], [-100, -100, -100]],
    }


def test_no_rows_make_a_batch_without_loss() -> None:
    """A rank without rows in the last step still takes part in it."""
    batch = {name: array.tolist() for name, array in pad([]).items()}
    assert batch == {"input_ids": [[0]], "attention_mask": [[1]], "labels": [[-100]]}


def test_reads_packed_rows(tmp_path: Path) -> None:
    """Packed rows know how long each of their samples is."""
    written = packed_rows(20, capacity=64)
    write_packed_rows(tmp_path / "rows.arrow", written)
    rows = Rows(tmp_path / "rows.arrow")
    assert rows.packed
    for index, (ids, labels, samples) in enumerate(written):
        row = rows[index]
        assert row.samples is not None
        assert (row.ids.tolist(), row.labels.tolist(), row.samples.tolist()) == (ids, labels, samples)


def test_packed_rows_have_positions_and_no_mask() -> None:
    """Positions begin anew with each sample and with the padding, which is nobody's neighbour."""
    batch = pad([_row([5, 6, 7, 8, 9], [-100, 6, -100, 8, 9], [2, 3]), _row([4], [-100], [1])], packed=True)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [[5, 6, 7, 8, 9], [4, 0, 0, 0, 0]],
        "position_ids": [[0, 1, 0, 1, 2], [0, 0, 1, 2, 3]],
        "labels": [[-100, 6, -100, 8, 9], [-100, -100, -100, -100, -100]],
    }


def test_no_packed_rows_make_a_batch_without_loss() -> None:
    """A rank without rows takes part in a packed step, too."""
    batch = {name: array.tolist() for name, array in pad([], packed=True).items()}
    assert batch == {"input_ids": [[0]], "position_ids": [[0]], "labels": [[-100]]}


def _row(ids: list[int], labels: list[int], samples: list[int] | None = None) -> Row:
    lengths = None if samples is None else np.array(samples, np.int32)
    return Row(np.array(ids, np.int32), np.array(labels, np.int32), lengths)


def _write(path: Path, columns: dict[str, pa.Array]) -> None:
    batch = pa.record_batch(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


LISTS = pa.list_(pa.int32())


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        pytest.param({"input_ids": pa.array([[1]], LISTS)}, "labels", id="no labels"),
        pytest.param(
            {"input_ids": pa.array([[1, 2]], LISTS), "labels": pa.array([[1]], LISTS)}, "equally long", id="lengths"
        ),
        pytest.param(
            {"input_ids": pa.array([[1]], pa.list_(pa.int64())), "labels": pa.array([[1]], LISTS)},
            "list<int32>",
            id="type",
        ),
        pytest.param(
            {
                "input_ids": pa.array([[1, 2, 3]], LISTS),
                "labels": pa.array([[1, 2, 3]], LISTS),
                "lengths": pa.array([[1, 1]], LISTS),
            },
            "`lengths` must add up",
            id="samples",
        ),
        pytest.param(None, "not a file of prepared rows", id="not Arrow"),
    ],
)
def test_refuses_what_is_no_prepared_data(tmp_path: Path, columns: dict[str, pa.Array] | None, words: str) -> None:
    """A broken file is named, with what is wrong with it."""
    path = tmp_path / "rows.arrow"
    if columns is None:
        path.write_bytes(b"{}" * 20)
    else:
        _write(path, columns)
    with pytest.raises(StageError, match=words) as caught:
        Rows(path)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "PreparedDataBroken")


def test_a_missing_file_is_a_missing_input(tmp_path: Path) -> None:
    """A file that is not there is another class of failure than a broken one."""
    with pytest.raises(StageError) as caught:
        Rows(tmp_path / "train.arrow")
    assert caught.value.code is ExitCode.MISSING_INPUT
