from __future__ import annotations

from pathlib import Path

import pytest

from support.dataset_files import rows_of
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.row import MAX_ROW_BYTES, BadRow
from tunesmith_stages.prepare.rows import parse, read_batches
from tunesmith_stages.program import StageError

GOOD: dict[str, tuple[bytes, list[tuple[str, dict[str, str]]]]] = {
    "plain": (b"a,b\n1,2\n3,4\n", [("t.csv, line 2", {"a": "1", "b": "2"}), ("t.csv, line 3", {"a": "3", "b": "4"})]),
    "from Windows, with a mark": (b"\xef\xbb\xbfa,b\r\n1,\r\n", [("t.csv, line 2", {"a": "1", "b": ""})]),
    "quoted": (
        b'a,b\n"x, ""y""\n\nz",2\n3,4\n',
        [("t.csv, line 2", {"a": 'x, "y"\n\nz', "b": "2"}), ("t.csv, line 5", {"a": "3", "b": "4"})],
    ),
    "blank lines": (b"\na\n\n1\n\n2\n", [("t.csv, line 4", {"a": "1"}), ("t.csv, line 6", {"a": "2"})]),
    "a blank before a name is part of it": (b"a, b\n1,2\n", [("t.csv, line 2", {"a": "1", " b": "2"})]),
    "semicolons": (
        b'\xef\xbb\xbfa;b\r\n1,5;"2;3"\r\n',
        [("t.csv, line 2", {"a": "1,5", "b": "2;3"})],
    ),
    "tabs": (b"a\tb\n1\t2, 3\n", [("t.csv, line 2", {"a": "1", "b": "2, 3"})]),
    "a separator in a name": (b'"a;b;c"\n1\n', [("t.csv, line 2", {"a;b;c": "1"})]),
    "a separator in one of two names": (b"a;b,c\n1,2\n", [("t.csv, line 2", {"a;b": "1", "c": "2"})]),
    "Excel's line about the separator": (b"sep=;\r\na;b\r\n1;2\r\n", [("t.csv, line 3", {"a": "1", "b": "2"})]),
    "empty records of a spreadsheet": (
        b"a,b\n1,2\n,\n3,4\n",
        [("t.csv, line 2", {"a": "1", "b": "2"}), ("t.csv, line 4", {"a": "3", "b": "4"})],
    ),
    "no rows": (b"a,b\n", []),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("name", GOOD)
def test_rows_of_a_table(tmp_path: Path, name: str) -> None:
    """Each record is a row of texts, under the number of the line where it begins."""
    content, rows = GOOD[name]
    (tmp_path / "t.csv").write_bytes(content)
    assert [(row.place, row.data) for row in rows_of(tmp_path)] == rows


BAD: dict[str, tuple[bytes, str, str]] = {
    "a header twice": (b"a,b,a\n1,2,3\n", "BadCsv", "the header has the column `a` more than once"),
    "a header without a name": (b"a,,c\n1,2,3\n", "BadCsv", "the header's column 2 has no name"),
    "columns without names": (b"a,b,,\n1,2,,\n", "BadCsv", "the header's column 3 has no name"),
    "from an old Macintosh": (b"a,b\r1,2\r", "BadCsv", "lines that end with a carriage return alone"),
    "semicolons in a row alone": (b"a,b\n1;2\n", "WrongShape", "line 2 has 1 fields, but the header has 2"),
    "JSON lines": (b'{"a": 1}\n', "BadCsv", "begins as JSON does"),
    "an open quote": (b'a,b\n1,"2\n3,4\n', "BadCsv", "t.csv is not CSV: unexpected end of data, at line 3"),
    "words after a quote": (b'a,b\n1,"2" x\n', "BadCsv", "t.csv is not CSV: ',' expected after '\"', at line 2"),
    "a field of 10 MB": (
        b'a\n"' + (b"x" * 9999 + b"\n") * 1000 + b'"\n',
        "BadCsv",
        "field larger than field limit (8388608)",
    ),
    "UTF-16": ("a,b\n".encode("utf-16"), "NotUtf8", "t.csv is not UTF-8"),
    "Latin-1": (b"a,b\ncaf\xe9,2\n", "NotUtf8", "t.csv, line 2 is not UTF-8: byte 0xe9 at offset 3"),
    "NUL bytes": (b"a,b\n1,\0\n", "NulByte", "t.csv, line 2 holds a NUL byte"),
    "a spreadsheet": (b"PK\x03\x04", "WrongFileType", "t.csv is a ZIP archive, or a spreadsheet"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_table(tmp_path: Path, name: str) -> None:
    """A file that is no table of named columns is refused with what it is and what would be right."""
    content, reason, words = BAD[name]
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(StageError) as caught:
        rows_of(tmp_path)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, reason)
    assert words in caught.value.message
    assert caught.value.hint


def test_a_record_of_another_width(tmp_path: Path) -> None:
    """A record with more or fewer fields than the header is a bad row among good ones."""
    (tmp_path / "t.csv").write_text("a,b\n1\n1,2,3\n1,2\n")
    rows = [row for batch in read_batches(tmp_path) for row in parse(batch)]
    messages = [row.message if isinstance(row, BadRow) else row.data for row in rows]
    assert messages == [
        "t.csv, line 2 has 1 fields, but the header has 2",
        "t.csv, line 3 has 3 fields, but the header has 2",
        {"a": "1", "b": "2"},
    ]


def test_a_line_without_end(tmp_path: Path) -> None:
    """A file that is one endless line is not read into memory whole."""
    (tmp_path / "t.csv").write_bytes(b"a\n" + b"x" * (3 * MAX_ROW_BYTES))
    with pytest.raises(StageError, match="line 2 is more than 8,388,608 bytes long"):
        rows_of(tmp_path)


@pytest.mark.parametrize("line", ["a," + "x" * MAX_ROW_BYTES, ",".join(["é" * (MAX_ROW_BYTES // 4)] * 2)])
def test_a_line_that_is_too_long_is_not_cut(tmp_path: Path, line: str) -> None:
    """The beginning of a row is never taken for the whole of it, and is no other encoding either."""
    (tmp_path / "t.csv").write_text(f"a,b\n1,2\n{line}\n3,4\n")
    with pytest.raises(StageError, match="line 3 is more than 8,388,608 bytes long") as caught:
        rows_of(tmp_path)
    assert caught.value.reason == "RowTooLong"
