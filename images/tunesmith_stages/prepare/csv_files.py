"""Reads CSV files: a header, then one row in each record, which may span lines if it is quoted."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.row import MAX_ROW_BYTES, BadRow, RawRow
from tunesmith_stages.prepare.text_files import decoded, open_text
from tunesmith_stages.program import StageError

_QUOTING = 'Quote texts that hold commas, quotes or line breaks: "like ""this""".'


def csv_rows(path: Path, name: str) -> Iterator[tuple[int, RawRow]]:
    """Yield for each record the number of its first line, and its columns by name: texts, all of them.

    Raises:
        StageError: the file is not UTF-8, its header cannot be used, or its quoting is broken.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(_lines(path, name), strict=True)
    try:
        header = next((fields for fields in reader if fields), [])
        _check_header(header, name)
        end = reader.line_num
        for fields in reader:
            number, end = end + 1, reader.line_num
            if fields:
                yield number, _row(header, fields, f"{name}, line {number}")
    except csv.Error as error:
        _refuse(f"{name} is not CSV: {error}, at line {reader.line_num}", _QUOTING)


def _lines(path: Path, name: str) -> Iterator[str]:
    with open_text(path, name) as file:
        number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            yield decoded(line, f"{name}, line {number}")


def _row(header: list[str], fields: list[str], place: str) -> RawRow:
    if len(fields) == len(header):
        return dict(zip(header, fields, strict=True))
    return BadRow(place, f"{place} has {len(fields)} fields, but the header has {len(header)}", "WrongShape", _QUOTING)


def _check_header(header: list[str], name: str) -> None:
    twice = [column for column, times in Counter(header).items() if times > 1]
    if twice:
        _refuse(f"{name}: the header has the column `{twice[0]}` more than once", "Give each column a name of its own.")
    if any(not column.strip() for column in header):
        _refuse(f"{name}: the header's column {_position(header)} has no name", "Give each column a name.")
    if header and header[0].lstrip().startswith(("{", "[")):
        _refuse(f"{name} begins as JSON does, not as CSV", "Name the file .json or .jsonl.")
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        what = "semicolons" if ";" in header[0] else "tabs"
        _refuse(f"{name}: the columns are separated by {what}", "Save the file with commas between the columns.")


def _position(header: list[str]) -> int:
    return 1 + next(index for index, column in enumerate(header) if not column.strip())


def _refuse(message: str, hint: str) -> NoReturn:
    raise StageError(ExitCode.BAD_DATA, message, reason="BadCsv", hint=hint)
