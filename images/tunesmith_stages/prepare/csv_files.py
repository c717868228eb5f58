"""Reads CSV files: a header, then one row in each record, which may span lines if it is quoted.

Columns are separated by commas; by semicolons or tabs if the header is, as spreadsheets write it in many countries.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.row import MAX_ROW_BYTES, BadRow, RawRow, too_long
from tunesmith_stages.prepare.text_files import decoded, open_text
from tunesmith_stages.program import StageError

_QUOTING = 'Quote texts that hold commas, quotes or line breaks: "like ""this""".'
_LINE_ENDS = "Save the file with the line ends of Windows or Unix (in Excel: CSV UTF-8, not CSV Macintosh)."
_SEPARATORS = (",", ";", "\t")
_SAID = re.compile(r"sep=([,;\t|])\r?\n?")
"""Excel's own first line, which says what separates the columns."""


def csv_rows(path: Path, name: str) -> Iterator[tuple[int, RawRow]]:
    """Yield for each record the number of its first line, and its columns by name: texts, all of them.

    Raises:
        StageError: the file is not UTF-8, its header cannot be used, its quoting is broken, or a line is too long.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = _reader(_lines(path, name))
    try:
        header: list[str] = next((fields for fields in reader if fields), [])
        _check_header(header, name)
        end = reader.line_num
        for fields in reader:
            number, end = end + 1, reader.line_num
            if any(fields):  # a record of empty fields is a blank line of a spreadsheet
                yield number, _row(header, fields, f"{name}, line {number}")
    except csv.Error as error:
        if "new-line character" in str(error):  # a carriage return that no quotes hold, and no line feed behind it
            _refuse(f"{name} has lines that end with a carriage return alone", _LINE_ENDS)
        _refuse(f"{name} is not CSV: {error}, at line {reader.line_num}", _QUOTING)


def _reader(lines: Iterator[str]) -> Any:
    """Return a reader of CSV that knows what separates the columns: what makes most of them of the header."""
    begun = []
    for line in lines:
        begun.append(line)
        if line.strip():
            break
    header = begun[-1] if begun else ""
    said = _SAID.fullmatch(header)
    if said:
        begun[-1] = "\n"
        return csv.reader(chain(begun, lines), delimiter=said[1], strict=True)
    separator = max(_SEPARATORS, key=lambda each: _columns(header, each))
    return csv.reader(chain(begun, lines), delimiter=separator, strict=True)


def _columns(header: str, separator: str) -> int:
    try:
        return len(next(csv.reader([header], delimiter=separator), []))
    except csv.Error:  # which the reader of the whole file will tell
        return 0


def _lines(path: Path, name: str) -> Iterator[str]:
    with open_text(path, name) as file:
        number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(line) > MAX_ROW_BYTES:  # nobody knows where its row ends: it may go on in the next line
                raise too_long(f"{name}, line {number}").error()
            yield decoded(line, f"{name}, line {number}")


def _row(header: list[str], fields: list[str], place: str) -> RawRow:
    if len(fields) == len(header):
        return dict(zip(header, fields, strict=True))
    return BadRow(place, f"{place} has {len(fields)} fields, but the header has {len(header)}", "WrongShape", _QUOTING)


def _check_header(header: list[str], name: str) -> None:
    if any(not column.strip() for column in header):
        _refuse(f"{name}: the header's column {_position(header)} has no name", "Give it a name, or remove the column.")
    twice = [column for column, times in Counter(header).items() if times > 1]
    if twice:
        _refuse(f"{name}: the header has the column `{twice[0]}` more than once", "Give each column a name of its own.")
    if header and header[0].lstrip().startswith(("{", "[")):
        _refuse(f"{name} begins as JSON does, not as CSV", "Name the file .json or .jsonl.")


def _position(header: list[str]) -> int:
    return 1 + next(index for index, column in enumerate(header) if not column.strip())


def _refuse(message: str, hint: str) -> NoReturn:
    raise StageError(ExitCode.BAD_DATA, message, reason="BadCsv", hint=hint)
