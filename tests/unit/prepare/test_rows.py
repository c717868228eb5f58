from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.rows import read_rows
from tunesmith_stages.program import StageError

GOOD: dict[str, tuple[str, bytes, list[tuple[str, dict[str, object]]]]] = {
    "a list": ("a.json", b'[{"x": 1}, {"x": 2}]', [("a.json, row 1", {"x": 1}), ("a.json, row 2", {"x": 2})]),
    "lines": ("a.jsonl", b'{"x": 1}\n{"x": 2}\n', [("a.jsonl, line 1", {"x": 1}), ("a.jsonl, line 2", {"x": 2})]),
    "lines with gaps": (
        "a.jsonl",
        b'\n{"x": 1}\n  \r\n{"x": 2}',
        [("a.jsonl, line 2", {"x": 1}), ("a.jsonl, line 4", {"x": 2})],
    ),
    "lines from Windows": ("a.jsonl", b'{"x": 1}\r\n', [("a.jsonl, line 1", {"x": 1})]),
    "a list with a BOM": ("a.json", b'\xef\xbb\xbf[{"x": "\xc3\xa9"}]', [("a.json, row 1", {"x": "é"})]),
    "lines with a BOM": ("a.jsonl", b'\xef\xbb\xbf{"x": 1}\n', [("a.jsonl, line 1", {"x": 1})]),
    "escapes": ("a.json", rb'[{"x": "\ud83d\ude00\u0000"}]', [("a.json, row 1", {"x": "😀\0"})]),
    "an empty list": ("a.json", b"[]", []),
    "an empty list's file": ("a.json", b" \n", []),
    "no lines": ("a.jsonl", b"", []),
}


@pytest.mark.parametrize("name", GOOD)
def test_rows_and_where_they_are(tmp_path: Path, name: str) -> None:
    """Each row comes with the file and the number under which an editor shows it."""
    file, content, rows = GOOD[name]
    (tmp_path / file).write_bytes(content)
    assert [(row.place, row.data) for row in read_rows(tmp_path)] == rows


def test_files_in_order(tmp_path: Path) -> None:
    """Of several files the rows come by the files' names, so that the order is the same everywhere."""
    for name in ("b.json", "c.jsonl", "a.json"):
        (tmp_path / name).write_text('{"x": 1}' if name.endswith("l") else '[{"x": 1}]')
    assert [row.place for row in read_rows(tmp_path)] == ["a.json, row 1", "b.json, row 1", "c.jsonl, line 1"]


BAD: dict[str, tuple[str, bytes, str, str]] = {
    "Latin-1": ("a.json", b'[{"x": "caf\xe9"}]', "NotUtf8", "a.json is not UTF-8: byte 0xe9 at offset 11"),
    "Latin-1 in a line": (
        "a.jsonl",
        b'{"x": 1}\n{"x": "\xe9"}\n',
        "NotUtf8",
        "a.jsonl, line 2 is not UTF-8: byte 0xe9 at offset 7",
    ),
    "UTF-16": ("a.json", "[]".encode("utf-16"), "NotUtf8", "a.json is not UTF-8"),
    "cut": (
        "a.json",
        b'[{"x": 1},\n {"x"',
        "NotJson",
        "a.json is not JSON: Expecting ':' delimiter at line 2, column 6",
    ),
    "a line cut": (
        "a.jsonl",
        b'{"x": 1}\n{"x": \n',
        "NotJson",
        "a.jsonl, line 2 is not JSON: Expecting value at column",
    ),
    "lines named .json": ("a.json", b'{"x": 1}\n{"x": 2}\n', "NotJson", "a.json is not JSON: Extra data at line 2"),
    "a list named .jsonl": ("a.jsonl", b'[\n{"x": 1}\n]\n', "NotJson", "a.jsonl, line 1 is not JSON"),
    "a list on one line named .jsonl": (
        "a.jsonl",
        b'[{"x": 1}]\n',
        "WrongShape",
        "a row must be an object, {...}, but is a list",
    ),
    "a table": ("a.json", b"x,y\n1,2\n", "NotJson", "a.json is not JSON"),
    "an object": (
        "a.json",
        b'{"data": []}',
        "WrongShape",
        "a.json must hold a list of rows, [{...}, ...], but holds an object",
    ),
    "a number": ("a.json", b"5", "WrongShape", "but holds a number"),
    "a list of texts": (
        "a.json",
        b'[{"x": 1}, "y"]',
        "WrongShape",
        "a.json, row 2: a row must be an object, {...}, but is a text",
    ),
    "null in a list": ("a.json", b"[null]", "WrongShape", "a.json, row 1: a row must be an object, {...}, but is null"),
    "half a character": ("a.json", rb'[{"x": "\ud83d"}]', "NotJson", "half of a surrogate pair, '\\ud83d'"),
    "half a character in a line": ("a.jsonl", b'{}\n{"x": "\\ude00!"}\n', "NotJson", "a.jsonl, line 2 holds half of"),
    "nested too deeply": ("a.json", b"[" * 100_000, "NotJson", "a.json is not JSON that can be read"),
    "a number of too many digits": (
        "a.json",
        b'[{"x": ' + b"9" * 5000 + b"}]",
        "NotJson",
        "a.json is not JSON that can be",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(tmp_path: Path, name: str) -> None:
    """A file that cannot be read as rows says which file, where in it, and what would be right."""
    file, content, reason, words = BAD[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(StageError) as caught:
        list(read_rows(tmp_path))
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, reason)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("file", "content", "hint"),
    [
        ("a.json", b'{"x": 1}\n{"x": 2}\n', "name a file .jsonl if each line is a row"),
        ("a.jsonl", b'[\n{"x": 1}\n]\n', "name a file .json if it is one list of rows"),
        ("a.jsonl", b'[{"x": 1}]\n', "name a file .json if it is one list of rows"),
    ],
)
def test_wrong_ending_is_guessed(tmp_path: Path, file: str, content: bytes, hint: str) -> None:
    """A file whose name ends as the other kind gets the hint that cures it."""
    (tmp_path / file).write_bytes(content)
    with pytest.raises(StageError) as caught:
        list(read_rows(tmp_path))
    assert hint in caught.value.hint
