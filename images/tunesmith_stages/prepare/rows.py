"""Reads the rows of a dataset's files; every row knows the file and the number under which people find it."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One row of a dataset."""

    place: str
    """Where people find it: ``faq.json, row 12`` (rows count from 1) or ``faq.jsonl, line 12``."""
    data: Mapping[str, Any]

    def refuse(self, message: str, *, hint: str = "") -> NoReturn:
        """Raise the error that this row cannot be used."""
        raise StageError(ExitCode.BAD_DATA, f"{self.place}: {message}", reason="BadRow", hint=hint)


def read_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of every file in a dataset's folder, in the files' order.

    Raises:
        StageError: a file is not UTF-8, not JSON, or not a list of objects.
    """
    for path in sorted(folder.iterdir()):
        yield from _read_lines(path) if path.suffix == ".jsonl" else _read_list(path)


def _read_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.removeprefix(_BOM) if number == 1 else line
            if content.strip():
                place = f"{path.name}, line {number}"
                yield _row(place, _parse(_decode(content, place), place, hint=_ONE_ROW_A_LINE), hint=_ONE_ROW_A_LINE)


def _read_list(path: Path) -> Iterator[Row]:
    text = _decode(path.read_bytes().removeprefix(_BOM), path.name)
    rows = _parse(text, path.name, hint=_LIST_OF_ROWS) if text.strip() else []
    if not isinstance(rows, list):
        raise StageError(
            ExitCode.BAD_DATA,
            f"{path.name} must hold a list of rows, [{{...}}, ...], but holds {_kind(rows)}",
            reason="WrongShape",
            hint="Wrap the rows in [ ], or name the file .jsonl if there is one row on each line.",
        )
    for number, data in enumerate(rows, start=1):
        yield _row(f"{path.name}, row {number}", data, hint=_LIST_OF_ROWS)


def _decode(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        code = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "LATIN1"
        line = content.count(b"\n", 0, error.start) + 1
        where = f"byte 0x{content[error.start]:02x} at offset {error.start}" + (f" (line {line})" if line > 1 else "")
        raise StageError(
            ExitCode.BAD_DATA,
            f"{place} is not UTF-8: {where}",
            reason="NotUtf8",
            hint=f"Save the file as UTF-8 (for example: iconv -f {code} -t UTF-8).",
        ) from None


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a pair that writes one character in JSON. Alone it is no character, and no tokenizer takes it."""

_ONE_ROW_A_LINE = "A .jsonl file holds one row, {...}, on each line; name a file .json if it is one list of rows."
_LIST_OF_ROWS = "A .json file holds one list of rows, [{...}, ...]; name a file .jsonl if each line is a row."


def _parse(text: str, place: str, *, hint: str) -> Any:
    try:
        rows = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(rows, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        why = f"is not JSON: {error.msg} at {line}column {error.colno}"
    except UnicodeEncodeError as error:
        why = f"holds half of a surrogate pair, {error.object[error.start]!r}, which is no character"
        hint = "Write the character whole, or remove it."
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        why = f"is not JSON that can be read: {error}"
    else:
        return rows
    raise StageError(ExitCode.BAD_DATA, f"{place} {why}", reason="NotJson", hint=hint)


def _row(place: str, data: object, *, hint: str) -> Row:
    if not isinstance(data, dict):
        raise StageError(
            ExitCode.BAD_DATA,
            f"{place}: a row must be an object, {{...}}, but is {_kind(data)}",
            reason="WrongShape",
            hint=hint,
        )
    return Row(place, data)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
