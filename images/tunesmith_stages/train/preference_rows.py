"""Rows that say what people prefer, and how they become batches.

``train.arrow`` and ``validation.arrow`` have besides the columns of other trainings:

- for DPO and ORPO ``rejected_input_ids`` and ``rejected_labels``: the same prompt with the answer that is not wanted,
  where ``input_ids`` and ``labels`` hold the chosen one;
- for KTO ``desirable``: whether the answer of the row is wanted.

Only the last answer is labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.methods import Method, Preference
from tunesmith_stages.train.rows import IGNORED, Row, Rows, pad

Batch = dict[str, torch.Tensor]
MISMATCHED = "mismatched_"
"""Begins the names of what KTO's z0 is estimated on."""

_FEWEST = 2
"""Rows of which each has another one whose answer can be put to its prompt."""


class Pair(NamedTuple):
    """Two answers to the same prompt."""

    position: int
    """Where it stands among the rows."""
    chosen: Row
    rejected: Row


class Judged(NamedTuple):
    """An answer that is wanted or not."""

    position: int
    """Where it stands among the rows."""
    own: Row
    mismatched: Row
    """The same prompt with another row's answer."""
    desirable: bool


class PairRows:
    """The pairs of one Arrow file."""

    packed = False

    def __init__(self, path: Path, method: Method) -> None:
        _require_column(path, "rejected_input_ids", "pairs of a chosen and a rejected answer", method)
        self._chosen = Rows(path)
        self._rejected = Rows(path, "rejected_input_ids", "rejected_labels")

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Pair:
        return Pair(index, self._chosen[index], self._rejected[index])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of every pair."""
        return self._chosen.lengths + self._rejected.lengths

    def id_range(self) -> tuple[int, int]:
        """Return the lowest and the highest token id that occurs."""
        ends = [*self._chosen.id_range(), *self._rejected.id_range()]
        return min(ends), max(ends)


class JudgedRows:
    """The single answers of one Arrow file."""

    packed = False

    def __init__(self, path: Path) -> None:
        _require_column(path, "desirable", "answers that are desirable or not", Method.KTO)
        self._own = Rows(path)
        self._desirable = _booleans(path, "desirable")
        self._longest = int(self._own.lengths.max(initial=0))

    def __len__(self) -> int:
        return len(self._own)

    def __getitem__(self, index: int) -> Judged:
        return Judged(index, self._own[index], self._mismatched(index), bool(self._desirable[index]))

    def _mismatched(self, index: int) -> Row:
        """Return a prompt with the answer of the row that is about half of all rows away.

        The row is always the same one, so that what the base makes of it need be found out only once. It is cut to
        what the model is given anyway.
        """
        prompt, other = self._own[index], self._own[self._with_other_prompt(index)]
        asked, answered = _answer_begins(prompt), _answer_begins(other)
        ids = np.concatenate([prompt.ids[:asked], other.ids[answered:]])
        labels = np.concatenate([np.full(asked, IGNORED, np.int32), other.labels[answered:]])
        return Row(ids[: self._longest], labels[: self._longest])

    def _with_other_prompt(self, index: int) -> int:
        """Return the row half of all rows away; if it has the same prompt, one farther on that has another.

        That one often has: rows that are used twice stand twice in the same order, and sets of pairs that were taken
        apart hold all chosen answers before all rejected ones. The steps double, so few rows are looked at, however
        many with the same prompt stand together. Where none of those has another prompt, it is half of all rows away.
        """
        count, asked = len(self), _prompt(self._own[index])
        half = index + count // 2
        steps = [0, *(1 << power for power in range(count.bit_length()))]
        looked_at = ((half + step) % count for step in steps)
        return next((row for row in looked_at if not np.array_equal(_prompt(self._own[row]), asked)), half % count)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of every row."""
        return self._own.lengths

    def id_range(self) -> tuple[int, int]:
        """Return the lowest and the highest token id that occurs."""
        return self._own.id_range()


AnyRows = Rows | PairRows | JudgedRows


def open_rows(path: Path, preference: Preference | None) -> AnyRows:
    """Open the rows that a method learns from; None: supervised fine-tuning.

    Raises:
        StageError: they are rows for another method.
    """
    if preference is None:
        return Rows(path)
    return JudgedRows(path) if preference.method is Method.KTO else PairRows(path, preference.method)


def require_enough(rows: AnyRows) -> None:
    """Check that there are rows enough to train on.

    Raises:
        StageError: KTO has but one.
    """
    if isinstance(rows, JudgedRows) and len(rows) < _FEWEST:
        raise StageError(
            ExitCode.BAD_DATA,
            f"the prepared data hold {len(rows)} row to train on; `method: KTO` must have at least {_FEWEST}, for it "
            "puts the answers of other rows to each prompt",
            reason="TooFewRows",
            hint="Add rows, desirable and undesirable ones.",
        )


def _answer_begins(row: Row) -> int:
    return int(np.argmax(row.labels != IGNORED))


def _prompt(row: Row) -> npt.NDArray[np.int32]:
    return row.ids[: _answer_begins(row)]


def _require_column(path: Path, name: str, what: str, method: Method) -> None:
    """Check that a file was prepared for the method."""
    if path.is_file() and name not in _open(path).schema.names:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{path} holds no {what}, which `method: {method}` learns from: the column `{name}` is missing",
            reason="PreparedDataBroken",
            hint="The rows were prepared for another method. Remove the folder of this preparation and run the job "
            "again; if that does not help, it is an error of Tunesmith.",
        )


def _booleans(path: Path, name: str) -> npt.NDArray[np.bool_]:
    column = _open(path).read_all().column(name)
    if not pa.types.is_boolean(column.type) or column.null_count:
        raise StageError(
            ExitCode.BAD_DATA, f"{path}: `{name}` must be true or false in every row", reason="PreparedDataBroken"
        )
    values: npt.NDArray[np.bool_] = column.to_numpy()
    return values


def _open(path: Path) -> Any:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except pa.ArrowInvalid as error:
        raise StageError(
            ExitCode.BAD_DATA, f"{path} is not a file of prepared rows: {error}", reason="PreparedDataBroken"
        ) from error


# --- batches ---------------------------------------------------------------------------------------------------------


def collate_pairs(pairs: Sequence[Pair]) -> Batch:
    """Make one batch of both answers of each pair: first the chosen ones, then the rejected ones.

    Returns:
        What :func:`pad` makes of them, and ``rows``: where the pairs stand among the rows. No pairs make a batch of
        one token.
    """
    both = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    return {**_padded(both), "rows": _indices(pairs)}


def collate_judged(rows: Sequence[Judged]) -> Batch:
    """Make a batch of answers, and one of the mismatched ones, whose names begin with :data:`MISMATCHED`.

    Returns:
        What :func:`pad` makes of both, ``desirable``, and ``rows``: where the answers stand among the rows.
    """
    return {
        **_padded([row.own for row in rows]),
        **{MISMATCHED + name: values for name, values in _padded([row.mismatched for row in rows]).items()},
        "rows": _indices(rows),
        "desirable": torch.tensor([row.desirable for row in rows], dtype=torch.bool),
    }


def _padded(rows: Sequence[Row]) -> Batch:
    return {name: torch.from_numpy(array) for name, array in pad(rows).items()}


def _indices(rows: Sequence[Pair] | Sequence[Judged]) -> torch.Tensor:
    return torch.tensor([row.position for row in rows], dtype=torch.int64)
