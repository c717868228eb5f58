"""Reads the rows of a dataset's files; every row knows the file and the number under which people find it.

One process reads (:func:`read_batches`), others parse (:func:`parse`). Nothing is held but the batch at hand, so that
memory does not grow with the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tunesmith_stages.prepare.csv_files import csv_rows
from tunesmith_stages.prepare.json_files import holds_lines, line_rows, list_rows, parse_row
from tunesmith_stages.prepare.parquet_files import parquet_count, parquet_tables, unpacked
from tunesmith_stages.prepare.row import BadRow, Batch, RawRow, Row, too_long
from tunesmith_stages.prepare.text_files import decoded, raw_lines
from tunesmith_stages.program import StageError
from tunesmith_stages.volume import readable

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".txt")
"""Endings of the files that hold rows."""

DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_infos.json"})
"""Files with such an ending that hold none."""

_BATCH_ROWS = 500
_BATCH_BYTES = 1024 * 1024


def data_files(folder: Path) -> dict[str, Path]:
    """Return the files that hold rows, by their paths below `folder`, in a fixed order."""
    files = (path for path in folder.rglob("*") if _ending(path) in SUFFIXES and path.name not in DESCRIPTIONS)
    found = {readable(path.relative_to(folder).as_posix()): path for path in files if path.is_file()}
    return dict(sorted(found.items()))


def read_batches(folder: Path) -> Iterator[Batch]:
    """Yield the rows of every file of a dataset, in the files' order.

    Raises:
        StageError: a file cannot be read on: it is no text, no CSV, no Parquet or no list of JSON objects.
    """
    start = 0
    for name, path in data_files(folder).items():
        for batch in _batches(name, path, start):
            yield batch
            start += len(batch)


def count_rows(folder: Path) -> int:
    """Return the number of rows, bad ones counted; errors as :func:`read_batches`."""
    return sum(
        parquet_count(path, name) if _ending(path) == ".parquet" else sum(1 for _ in _raw(name, path)[1])
        for name, path in data_files(folder).items()
    )


def parse(batch: Batch) -> Iterator[Row | BadRow]:
    """Yield each row of a batch, or why it is none."""
    raw = unpacked(batch) if batch.table else iter(batch.rows)
    for position in range(len(batch)):
        place = batch.place(position)
        try:
            content = next(raw)
            if isinstance(content, BadRow):
                yield content
            else:
                data = parse_row(content, place, batch.unit) if isinstance(content, bytes) else content
                yield Row(place, data)
        except StageError as error:
            yield BadRow.of(place, error)


def _ending(path: Path) -> str:
    """Return a file's ending; files from Windows often have it in capitals."""
    return path.suffix.lower()


def _batches(name: str, path: Path, start: int) -> Iterator[Batch]:
    if _ending(path) == ".parquet":
        first = 1
        for count, table in parquet_tables(path, name, _BATCH_ROWS, _BATCH_BYTES):
            yield Batch(name, "row", start + first - 1, tuple(range(first, first + count)), table=table)
            first += count
        return
    unit, raw = _raw(name, path)
    numbers: list[int] = []
    rows: list[RawRow] = []
    size = 0
    for number, content in raw:
        numbers.append(number)
        rows.append(content)
        size += _size(content)
        if len(rows) == _BATCH_ROWS or size > _BATCH_BYTES:
            yield Batch(name, unit, start, tuple(numbers), tuple(rows))
            start += len(rows)
            numbers, rows, size = [], [], 0
    if rows:
        yield Batch(name, unit, start, tuple(numbers), tuple(rows))


def _size(content: RawRow) -> int:
    if isinstance(content, BadRow):
        return 0
    return len(content) if isinstance(content, bytes) else sum(len(value) for value in content.values())


def _raw(name: str, path: Path) -> tuple[str, Iterator[tuple[int, RawRow]]]:
    """Return what the rows of a file are counted in, and number and content of each."""
    match _ending(path):
        case ".csv":
            return "line", csv_rows(path, name)
        case ".txt":
            return "line", _text_rows(path, name)
        case ".jsonl":
            return "line", line_rows(path, name)
    return ("line", line_rows(path, name)) if holds_lines(path, name) else ("row", list_rows(path, name))


def _text_rows(path: Path, name: str) -> Iterator[tuple[int, RawRow]]:
    """Yield each line of a plain text that is not blank, as a row with one column, ``text``."""
    for number, line in raw_lines(path, name):
        place = f"{name}, line {number}"
        try:
            yield number, too_long(place) if line is None else {"text": decoded(line, place).rstrip("\r\n")}
        except StageError as error:
            yield number, BadRow.of(place, error)
