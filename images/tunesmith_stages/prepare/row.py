"""One row of a dataset, good or bad, and the batches in which rows travel between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

MAX_ROW_BYTES = 8 * 1024 * 1024
"""A row may have so many bytes: some two million tokens. What is longer is refused, so that memory stays bounded."""


@dataclass(frozen=True)
class Row:
    """One row of a dataset."""

    place: str
    """Where people find it: ``faq.json, row 12`` (rows count from 1) or ``faq.jsonl, line 12``."""
    data: Mapping[str, Any]

    def refuse(self, message: str, *, hint: str = "", reason: str = "BadRow") -> NoReturn:
        """Raise the error that this row cannot be used."""
        raise StageError(ExitCode.BAD_DATA, f"{self.place}: {message}", reason=reason, hint=hint)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why. It can be sent to another process, unlike an error."""

    place: str
    message: str
    """A sentence that names the place."""
    reason: str
    hint: str

    @classmethod
    def of(cls, place: str, error: StageError) -> BadRow:
        """Return the row at `place` as one that `error` was raised for."""
        return cls(place, error.message, error.reason, error.hint)

    def error(self) -> StageError:
        """Return the error to raise where a bad row ends the stage."""
        return StageError(ExitCode.BAD_DATA, self.message, reason=self.reason, hint=self.hint)


RawRow = bytes | Mapping[str, Any] | BadRow
"""A row as it comes from a file: JSON text that is not parsed yet, columns by name, or what could not be read."""


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one file, not parsed yet. It can be sent to another process."""

    file: str
    """Path below the dataset's folder."""
    unit: str
    """What the file's rows are counted in: ``line`` or ``row``."""
    start: int
    """Number of rows before it in the whole dataset, bad ones counted."""
    numbers: tuple[int, ...]
    """Under which number, from 1, people find each row in the file."""
    rows: tuple[RawRow, ...] = ()
    table: bytes = b""
    """Instead of `rows`: the rows of a Parquet file, as a stream of Arrow's IPC format."""

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, position: int) -> str:
        """Return where people find one of the rows."""
        return f"{self.file}, {self.unit} {self.numbers[position]}"


def too_long(place: str, size: int | None = None) -> BadRow:
    """Return that the row at `place` is longer than a row may be."""
    much = "more than" if size is None else f"{size:,} bytes long, and at most"
    return BadRow(
        place,
        f"{place} is {much} {MAX_ROW_BYTES:,} bytes" + (" long" if size is None else " are allowed"),
        "RowTooLong",
        "Split it into several rows; no model reads so much at once.",
    )
