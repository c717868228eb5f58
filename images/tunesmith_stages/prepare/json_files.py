"""Reads JSON rows: one on each line, or a list of them. What a row holds is parsed later, by :func:`parse_row`.

A list is cut into its rows with the standard library's own parser, piece by piece, so that memory does not grow with
the file, and numbers, escapes and error messages are those of Python everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.json_text import HalfCharacterError, NameTwiceError, load_json
from tunesmith_stages.prepare.row import MAX_ROW_BYTES, RawRow, too_long
from tunesmith_stages.prepare.text_files import decoded, open_text, pieces, raw_lines
from tunesmith_stages.program import StageError

_ONE_ROW_A_LINE = "A .jsonl file holds one row, {...}, on each line; name a file .json if it is one list of rows."
_LIST_OF_ROWS = "A .json file holds one list of rows, [{...}, ...]; name a file .jsonl if each line is a row."
_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST_TOKEN = 16  # characters of a number's end, a literal or an escape that a piece may have cut
_BEGINNING = 4096  # bytes in which a file's first character is looked for
_decode = json.JSONDecoder().raw_decode


def line_rows(path: Path, name: str) -> Iterator[tuple[int, RawRow]]:
    """Yield number and content of each line.

    Raises:
        StageError: as :func:`~tunesmith_stages.prepare.text_files.open_text`.
    """
    for number, line in raw_lines(path, name):
        yield number, too_long(f"{name}, line {number}") if line is None else line


def list_rows(path: Path, name: str) -> Iterator[tuple[int, RawRow]]:
    """Yield number and content of each row of a list.

    Raises:
        StageError: the file is not UTF-8, not JSON, or not a list.
    """
    with open_text(path, name) as file:
        cutter = _Cutter(pieces(file, name), name)
        for number, text in enumerate(cutter.rows(), start=1):
            content = text.encode(errors="surrogatepass")
            place = f"{name}, row {number}"
            yield number, too_long(place, len(content)) if len(content) > MAX_ROW_BYTES else content


def holds_lines(path: Path, name: str) -> bool:
    """Return whether a file named ``.json`` holds JSON lines all the same, as many files on hubs do.

    Raises:
        StageError: as :func:`list_rows`.
    """
    with open_text(path, name) as file:
        if not file.read(_BEGINNING).lstrip().startswith(b"{"):
            return False
    lines = (line for _, line in raw_lines(path, name))
    first = next(lines, None)
    try:
        return first is not None and isinstance(json.loads(first), dict) and next(lines, None) is not None
    except (ValueError, RecursionError):
        return False


def parse_row(content: bytes, place: str, unit: str) -> dict[str, Any]:
    """Return the row that a JSON text holds.

    Raises:
        StageError: it is not UTF-8, not JSON, no object, has an object with a name twice, or holds text that is none.
    """
    hint = _ONE_ROW_A_LINE if unit == "line" else _LIST_OF_ROWS
    text = decoded(content, place)
    try:
        row = load_json(text)
    except HalfCharacterError as error:
        raise _not_json(place, str(error), "Write the character whole, or remove it.") from None
    except NameTwiceError as error:
        raise _not_json(place, str(error), "Give each value a name of its own.") from None
    except ValueError as error:
        raise _not_json(place, _why(error, line=0, column=1, many_lines="\n" in text.strip()), hint) from None
    if not isinstance(row, dict):
        message = f"{place}: a row must be an object, {{...}}, but is {_kind(row)}"
        raise StageError(ExitCode.BAD_DATA, message, reason="WrongShape", hint=hint)
    return row


class _Cutter:
    """Cuts a list of JSON values into their texts, holding no more of it than it must."""

    def __init__(self, text: Iterator[str], name: str) -> None:
        self._pieces = text
        self._name = name
        self._text = ""
        self._at = 0
        self._line, self._column = 0, 1  # of the first character of _text: lines before it, column

    def rows(self) -> Iterator[str]:
        """Yield the text of each value."""
        first = self._next()
        if not first:
            return
        if first != "[":
            self._refuse_shape()
        self._at += 1
        if self._next() != "]":
            yield self._value()
            while self._next() == ",":
                self._at += 1
                self._next()
                yield self._value()
            if self._next() != "]":
                raise self._error(json.JSONDecodeError("Expecting ',' delimiter", self._text, self._at))
        self._at += 1
        if self._next():
            raise self._error(json.JSONDecodeError("Extra data", self._text, self._at))

    def _next(self) -> str:
        """Move to the next character that is no blank, and return it; nothing at the end."""
        while True:
            blanks = _SPACE.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _value(self) -> str:
        """Return the text of the value that begins here, and move behind it."""
        while True:
            try:
                _, end = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                failure = self._error(error)
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_TOKEN
                if cut and len(self._text) - self._at > 2 * MAX_ROW_BYTES:
                    raise self._endless(failure) from None
                if not (cut and self._more()):
                    raise failure from None
            except (RecursionError, ValueError) as error:
                raise self._error(error) from None
            else:
                text = self._text[self._at : end]
                if end < len(self._text) or not self._more():  # else it may be the beginning of a number
                    self._at += len(text)
                    return text

    def _more(self) -> bool:
        """Forget what was cut off and read on, as much again as is held; return whether there was more."""
        self._line += self._text.count("\n", 0, self._at)
        newline = self._text.rfind("\n", 0, self._at)
        self._column = self._at - newline if newline >= 0 else self._column + self._at
        held = [self._text[self._at :]]
        wanted = len(held[0])
        self._text, self._at = "", 0
        grown = False
        while wanted >= 0 and (piece := next(self._pieces, "")):
            held.append(piece)
            wanted -= len(piece)
            grown = True
        self._text = "".join(held)
        return grown

    def _refuse_shape(self) -> None:
        value = json.loads(self._value())
        if self._next():
            raise self._error(json.JSONDecodeError("Extra data", self._text, self._at))
        raise StageError(
            ExitCode.BAD_DATA,
            f"{self._name} must hold a list of rows, [{{...}}, ...], but holds {_kind(value)}",
            reason="WrongShape",
            hint="Wrap the rows in [ ], or name the file .jsonl if there is one row on each line.",
        )

    def _endless(self, failure: StageError) -> StageError:
        """Return that a row is too long to look for its end, of which the parser says `failure`."""
        message = f"{self._name} has a row without end, or of more than {2 * MAX_ROW_BYTES:,} bytes: {failure.message}"
        return StageError(ExitCode.BAD_DATA, message, reason="RowTooLong", hint=failure.hint)

    def _error(self, error: ValueError | RecursionError) -> StageError:
        many_lines = self._line > 0 or "\n" in self._text.rstrip()
        return _not_json(self._name, _why(error, self._line, self._column, many_lines=many_lines), _LIST_OF_ROWS)


def _why(error: ValueError | RecursionError, line: int, column: int, *, many_lines: bool) -> str:
    """Return what is wrong with a text, of which `line` lines come before, and whose first column is `column`."""
    if isinstance(error, json.JSONDecodeError):
        where = f"line {line + error.lineno}, " if many_lines else ""
        at = error.colno + (column - 1 if error.lineno == 1 else 0)
        return f"is not JSON: {error.msg} at {where}column {at}"
    if isinstance(error, RecursionError):
        return "is not JSON that can be read: it is nested too deeply"
    return f"is not JSON that can be read: {error}"  # a number of thousands of digits


def _not_json(place: str, why: str, hint: str) -> StageError:
    return StageError(ExitCode.BAD_DATA, f"{place} {why}", reason="NotJson", hint=hint)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
