"""The prepared rows, read from Arrow files by memory map, and how they become batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

IGNORED = -100
"""Label of a token on which no loss is taken."""

Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
"""Token ids and labels of one example, of equal length."""


class Rows:
    """The rows of one Arrow IPC file; nothing is read before it is asked for, and nothing is copied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            self._ids = [_list_column(batch, "input_ids") for batch in batches]
            self._labels = [_list_column(batch, "labels") for batch in batches]
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
                    f"{self.path}: `input_ids` and `labels` must be equally long in every row",
                    reason="PreparedDataBroken",
                )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Row:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = index - int(self._starts[part])
        return _row(self._ids[part], row), _row(self._labels[part], row)

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


_Column = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
"""Values of all rows one after the other, and where each row begins (one more than there are rows)."""


def _list_column(batch: Any, name: str) -> _Column:
    column = batch.column(name)
    if not pa.types.is_list(column.type) or column.type.value_type != pa.int32():
        raise TypeError(f"column `{name}` must be list<int32>, is {column.type}")
    return column.values.to_numpy(), column.offsets.to_numpy()


def _row(column: _Column, index: int) -> npt.NDArray[np.int32]:
    values, offsets = column
    return values[offsets[index] : offsets[index + 1]]


def pad(rows: list[Row]) -> dict[str, npt.NDArray[np.int64]]:
    """Make a batch: pad on the right to the longest row; padding is masked and carries no loss.

    The padding id does not matter behind the mask, so it is 0. No rows make a batch of one masked token: a rank that
    has nothing left of a step's rows must take part in it all the same.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, each int64 of shape (rows, longest).
    """
    longest = max((len(ids) for ids, _ in rows), default=1)
    shape = (max(len(rows), 1), longest)
    input_ids = np.zeros(shape, np.int64)
    mask = np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    for index, (ids, targets) in enumerate(rows):
        input_ids[index, : len(ids)] = ids
        mask[index, : len(ids)] = 1
        labels[index, : len(targets)] = targets
    if not rows:
        mask[:] = 1  # attention over nothing would be undefined
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
