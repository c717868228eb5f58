"""The prepared rows, read from Arrow files by memory map, and how they become batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

IGNORED = -100
"""Label of a token on which no loss is taken."""

Ints = npt.NDArray[np.int32]


class Row(NamedTuple):
    """What is trained on as one: a sample, or several packed one after the other."""

    ids: Ints
    """Token ids."""
    labels: Ints
    """As long as `ids`."""
    samples: Ints | None = None
    """Tokens of each sample that it is packed of; None: rows are not packed."""


class Rows:
    """The rows of one Arrow IPC file; nothing is read before it is asked for, and nothing is copied."""

    def __init__(self, path: Path, ids: str = "input_ids", labels: str = "labels") -> None:
        """Open the file; `ids` and `labels` are its columns."""
        self.path = path
        self._names = (ids, labels)
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            self._ids = [_list_column(batch, ids) for batch in batches]
            self._labels = [_list_column(batch, labels) for batch in batches]
            self.packed = "lengths" in reader.schema.names
            """Whether rows are made of several samples."""
            self._samples = [_list_column(batch, "lengths") for batch in batches] if self.packed else []
        except FileNotFoundError as error:
            raise StageError(ExitCode.MISSING_INPUT, f"the prepared data lack {path.name}: {path}") from error
        except (pa.ArrowInvalid, KeyError, TypeError) as error:
            raise StageError(
                ExitCode.BAD_DATA, f"{path} is not a file of prepared rows: {error}", reason="PreparedDataBroken"
            ) from error
        self._starts = np.cumsum([0, *(len(offsets) - 1 for _, offsets in self._ids)])
        self._check_lengths()

    def _check_lengths(self) -> None:
        for (_, ids), (_, labels) in zip(self._ids, self._labels, strict=True):
            if not np.array_equal(np.diff(ids), np.diff(labels)):
                raise StageError(
                    ExitCode.BAD_DATA,
                    f"{self.path}: `{self._names[0]}` and `{self._names[1]}` must be equally long in every row",
                    reason="PreparedDataBroken",
                )
        for (values, samples), (_, ids) in zip(self._samples, self._ids, strict=False):
            sums = np.diff(np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[samples])
            if not np.array_equal(sums, np.diff(ids)):
                raise StageError(
                    ExitCode.BAD_DATA,
                    f"{self.path}: `lengths` must add up to the row's length in every row",
                    reason="PreparedDataBroken",
                )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Row:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = index - int(self._starts[part])
        samples = _row(self._samples[part], row) if self.packed else None
        return Row(_row(self._ids[part], row), _row(self._labels[part], row), samples)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of every row."""
        if not self._ids:
            return np.zeros(0, np.int64)
        return np.concatenate([np.diff(offsets) for _, offsets in self._ids]).astype(np.int64)

    def id_range(self) -> tuple[int, int]:
        """Return the lowest and the highest token id that occurs."""
        parts = [values[offsets[0] : offsets[-1]] for values, offsets in self._ids]
        parts = [part for part in parts if len(part)]
        return min(int(part.min()) for part in parts), max(int(part.max()) for part in parts)


_Column = tuple[Ints, Ints]
"""Values of all rows one after the other, and where each row begins (one more than there are rows)."""


def _list_column(batch: Any, name: str) -> _Column:
    column = batch.column(name)
    if not pa.types.is_list(column.type) or column.type.value_type != pa.int32():
        raise TypeError(f"column `{name}` must be list<int32>, is {column.type}")
    return column.values.to_numpy(), column.offsets.to_numpy()


def _row(column: _Column, index: int) -> Ints:
    values, offsets = column
    return values[offsets[index] : offsets[index + 1]]


def pad(rows: Sequence[Row], *, packed: bool = False) -> dict[str, npt.NDArray[np.int64]]:
    """Make a batch: pad on the right to the longest row; padding carries no loss, and no other token sees it.

    The padding id does not matter, so it is 0. No rows make a batch of one token: a rank that has nothing left of a
    step's rows must take part in it all the same.

    Returns:
        ``input_ids``, ``labels`` and, each int64 of shape (rows, longest), either ``attention_mask`` or, of packed
        rows, ``position_ids``: they begin at 0 with each sample, by which models tell the samples apart if they are
        given no mask and keep no cache. Padding counts as one sample more.
    """
    longest = max((len(row.ids) for row in rows), default=1)
    shape = (max(len(rows), 1), longest)
    input_ids = np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    for index, row in enumerate(rows):
        input_ids[index, : len(row.ids)] = row.ids
        labels[index, : len(row.labels)] = row.labels
    seen = {"position_ids": _positions(rows, shape)} if packed else {"attention_mask": _mask(rows, shape)}
    return {"input_ids": input_ids, **seen, "labels": labels}


def _mask(rows: Sequence[Row], shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    if not rows:
        return np.ones(shape, np.int64)  # attention over nothing would be undefined
    return (np.arange(shape[1]) < np.array([[len(row.ids)] for row in rows])).astype(np.int64)


def _positions(rows: Sequence[Row], shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    positions = np.zeros(shape, np.int64)
    for index, row in enumerate(rows):
        samples = [len(row.ids)] if row.samples is None else row.samples.tolist()
        samples.append(shape[1] - len(row.ids))
        positions[index] = np.concatenate([np.arange(length) for length in samples])
    return positions


def flatten(rows: Sequence[Row]) -> dict[str, npt.NDArray[np.int64]]:
    """Make a batch of one row that holds all rows one after the other, as :func:`pad` makes it of one packed row.

    It has no padding. FlashAttention tells packed samples apart in a batch of one row only: in one of several they
    would see each other.
    """
    samples = [row.samples if row.samples is not None else np.array([len(row.ids)], np.int32) for row in rows]
    labels = [np.concatenate([[IGNORED], row.labels[1:]]) for row in rows]  # no row is foretold by the one before it
    if not rows:
        return pad([], packed=True)
    ids = np.concatenate([row.ids for row in rows])
    return pad([Row(ids, np.concatenate(labels).astype(np.int32), np.concatenate(samples))], packed=True)
