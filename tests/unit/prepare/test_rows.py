from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import pickle
import tarfile
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.dataset_files import rows_of
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare import text_files
from tunesmith_stages.prepare.row import MAX_ROW_BYTES, BadRow
from tunesmith_stages.prepare.rows import count_rows, parse, read_batches
from tunesmith_stages.program import StageError


def nested(levels: int) -> list[object]:
    """Return lists in lists."""
    value: list[object] = []
    for _ in range(levels - 1):
        value = [value]
    return value


ZEROS = bytes(10_000_000)


def zipped(content: bytes) -> bytes:
    """Return an archive of ZIP with one file."""
    with zipfile.ZipFile(made := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", content)
    return made.getvalue()


def tarred(content: bytes) -> bytes:
    """Return an archive of tar with one file."""
    with tarfile.open(fileobj=(made := io.BytesIO()), mode="w") as archive:
        entry = tarfile.TarInfo("a.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


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
    "lines named .json": (
        "a.json",
        b'{"x": 1}\n\n{"x": 2}\n',
        [("a.json, line 1", {"x": 1}), ("a.json, line 3", {"x": 2})],
    ),
    "a list on many lines": (
        "a.json",
        b'[\n  {\n "x": 1\n  }\n,\n {"x": [1, {}]} ]\n',
        [("a.json, row 1", {"x": 1}), ("a.json, row 2", {"x": [1, {}]})],
    ),
    "large and odd numbers": (
        "a.json",
        b'[{"x": 123456789012345678901234567890, "y": 1e400, "z": -0.5}]',
        [("a.json, row 1", {"x": 123456789012345678901234567890, "y": float("inf"), "z": -0.5})],
    ),
    "as many levels as may be": (
        "a.jsonl",
        b'{"x": ' + b"[" * 99 + b"]" * 99 + b"}",
        [("a.jsonl, line 1", {"x": nested(99)})],
    ),
    "plain text": (
        "a.txt",
        "\ufeffOne\r\n\n Two é \n".encode(),
        [("a.txt, line 1", {"text": "One"}), ("a.txt, line 3", {"text": " Two é "})],
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_rows_and_where_they_are(tmp_path: Path, name: str) -> None:
    """Each row comes with the file and the number under which an editor shows it."""
    file, content, rows = GOOD[name]
    (tmp_path / file).write_bytes(content)
    assert [(row.place, row.data) for row in rows_of(tmp_path)] == rows


def test_files_in_order(tmp_path: Path) -> None:
    """Of several files the rows come by the files' names, so that the order is the same everywhere."""
    for name in ("b.json", "c.jsonl", "a.json"):
        (tmp_path / name).write_text('{"x": 1}' if name.endswith("l") else '[{"x": 1}]')
    assert [row.place for row in rows_of(tmp_path)] == ["a.json, row 1", "b.json, row 1", "c.jsonl, line 1"]


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
    "UTF-16 in lines": ("a.jsonl", '{"x": 1}'.encode("utf-16"), "NotUtf8", "a.jsonl is not UTF-8"),
    "UTF-16 without a mark": (
        "a.jsonl",
        '{"x": 1}'.encode("utf-16-le"),
        "NulByte",
        "a.jsonl, line 1 holds a NUL byte, at offset 1",
    ),
    "NUL bytes in a list": ("a.json", b'[{"x": 1}, {"x": "\0"}]', "NulByte", "a.json holds a NUL byte, at offset 18"),
    "NUL bytes in plain text": ("a.txt", b"One\nT\0wo\n", "NulByte", "a.txt, line 2 holds a NUL byte, at offset 1"),
    "Latin-1 in plain text": ("a.txt", b"caf\xe9\n", "NotUtf8", "a.txt, line 1 is not UTF-8: byte 0xe9 at offset 3"),
    "Parquet named .json": ("a.json", b"PAR1....", "WrongFileType", "a.json is a Parquet file, not a text file"),
    "compressed lines": ("a.jsonl", b"\x1f\x8b\x08\x00", "WrongFileType", "a.jsonl is compressed with gzip"),
    "a bomb of gzip": ("a.jsonl", gzip.compress(ZEROS), "WrongFileType", "a.jsonl is compressed with gzip"),
    "a bomb of bzip2": ("a.csv", bz2.compress(ZEROS), "WrongFileType", "a.csv is compressed with bzip2"),
    "a bomb of xz": ("a.txt", lzma.compress(ZEROS), "WrongFileType", "a.txt is compressed with xz"),
    "a bomb of zstd": ("a.json", bytes(pa.compress(ZEROS, "zstd")), "WrongFileType", "a.json is compressed with zstd"),
    "a bomb of ZIP": ("a.json", zipped(ZEROS), "WrongFileType", "a.json is a ZIP archive"),
    "an archive of tar": ("a.jsonl", tarred(b"{}"), "NulByte", "a.jsonl, line 1 holds a NUL byte"),
    "a pointer to Git LFS": (
        "a.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "WrongFileType",
        "a pointer to a file in Git LFS",
    ),
    "an object on many lines": (
        "a.json",
        b'{\n"x": 1\n}\n',
        "WrongShape",
        "a.json must hold a list of rows, [{...}, ...], but holds an object",
    ),
    "two lists": ("a.json", b'[{"x": 1}]\n[]', "NotJson", "a.json is not JSON: Extra data at line 2, column 1"),
    "a comma at the end": ("a.json", b'[{"x": 1},]', "NotJson", "a.json is not JSON: Expecting value at column 11"),
    "no comma": (
        "a.json",
        b'[{"x": 1}\n{"x": 2}]',
        "NotJson",
        "a.json is not JSON: Expecting ',' delimiter at line 2, column 1",
    ),
    "a list that is cut": (
        "a.json",
        b'[{"x": 1}',
        "NotJson",
        "a.json is not JSON: Expecting ',' delimiter at column 10",
    ),
    "a text that is not closed": (
        "a.json",
        b'[{"x": 1},\n{"x": "abc}]',
        "NotJson",
        "Unterminated string starting at at line 2, column 7",
    ),
    "a nesting bomb in a row": (
        "a.jsonl",
        b'{"x": ' + b"[" * 100_000 + b"\n",
        "NotJson",
        "a.jsonl, line 1 is not JSON that can be read: it is nested too deeply",
    ),
    "more levels than later steps can bear": (
        "a.jsonl",
        b'{"x": ' + b"[" * 100 + b"]" * 100 + b"}",
        "NotJson",
        "a.jsonl, line 1 is not JSON that can be read: it is nested too deeply, in more than 100 levels",
    ),
    "a row without end": (
        "a.json",
        b'[{"x": 1},\n{"x": "' + b"y" * 20_000_000,
        "RowTooLong",
        "a.json has a row without end, or of more than 16,777,216 bytes: a.json is not JSON: Unterminated string",
    ),
    "a nesting bomb of objects": ("a.json", b'[{"x": ' + b'{"x": ' * 100_000, "NotJson", "it is nested too deeply"),
    "a row of 10 MB": (
        "a.jsonl",
        b'{"x": "' + b"y" * 10_000_000 + b'"}\n',
        "RowTooLong",
        "a.jsonl, line 1 is more than 8,388,608 bytes long",
    ),
    "a row of 10 MB in a list": (
        "a.json",
        b'[{"x": "' + b"y" * 10_000_000 + b'"}]',
        "RowTooLong",
        "a.json, row 1 is 10,000,009 bytes long",
    ),
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
    "a name twice": (
        "a.json",
        b'[{"x": 1}, {"x": 1, "y": 2, "x": 3}]',
        "NotJson",
        "a.json, row 2 has an object with the name `x` more than once",
    ),
    "a name twice in a message": (
        "a.jsonl",
        b'{"messages": [{"role": "user", "role": "assistant"}]}',
        "NotJson",
        "a.jsonl, line 1 has an object with the name `role` more than once",
    ),
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
        rows_of(tmp_path)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, reason)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("file", "content", "hint"),
    [
        ("a.json", b'{\n"x": 1}\n', "name the file .jsonl if there is one row on each line"),
        ("a.jsonl", b'[\n{"x": 1}\n]\n', "name a file .json if it is one list of rows"),
        ("a.jsonl", b'[{"x": 1}]\n', "name a file .json if it is one list of rows"),
    ],
)
def test_wrong_ending_is_guessed(tmp_path: Path, file: str, content: bytes, hint: str) -> None:
    """A file whose name ends as the other kind gets the hint that cures it."""
    (tmp_path / file).write_bytes(content)
    with pytest.raises(StageError) as caught:
        rows_of(tmp_path)
    assert hint in caught.value.hint


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["a.json", "a.jsonl"])
def test_batches_know_where_they_begin(tmp_path: Path, file: str) -> None:
    """Batches are small and say how many rows come before them in the whole dataset, over files and folders."""
    rows = [{"x": number, "y": "z" * (9000 if number < 300 else 9)} for number in range(1200)]
    (tmp_path / "below").mkdir()
    for path in (tmp_path / file, tmp_path / "below" / file):
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if file.endswith("l") else f"[{','.join(lines)}]")
    batches = list(read_batches(tmp_path))
    assert [batch.start for batch in batches] == list(itertools.accumulate([0, *map(len, batches[:-1])]))
    assert max(map(len, batches)) == 500
    assert max(len(pickle.dumps(batch)) for batch in batches) < 2_000_000
    assert sum(map(len, batches)) == count_rows(tmp_path) == 2400
    found = [row for batch in pickle.loads(pickle.dumps(batches)) for row in parse(batch)]  # noqa: S301 - our own
    assert [row.data["x"] for row in found if not isinstance(row, BadRow)] == [*range(1200), *range(1200)]
    assert found[0].place == f"{file}, {batches[0].unit} 1"
    assert found[-1].place == f"below/{file}, {batches[0].unit} 1200"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 1000])
def test_rows_across_the_pieces_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Wherever a file is cut while it is read, its rows are those that a parser of the whole finds."""
    monkeypatch.setattr(text_files, "_PIECE", size)
    rows: list[dict[str, object]] = [
        {"x": 'é😀\\"' * number, "n": [12345, -0.5e3, None, True, {}], "\u00e9": "\u2028"} for number in range(5)
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1) + "\n")
    (tmp_path / "b.json").write_text(json.dumps(rows, ensure_ascii=False))
    assert [row.data for row in rows_of(tmp_path)] == [*rows, *rows]
    (tmp_path / "c.json").write_text("[123456, {} , nul]")
    with pytest.raises(StageError, match=r"c\.json is not JSON: Expecting value at column 15"):
        rows_of(tmp_path)
    (tmp_path / "c.json").write_text("[123456]")
    (batch,) = (batch for batch in read_batches(tmp_path) if batch.file == "c.json")
    assert batch.rows == (b"123456",)
    (tmp_path / "c.json").write_bytes('["é'.encode() + b'\xf0\x9f\x98"]')
    with pytest.raises(StageError, match=r"c\.json is not UTF-8: byte 0xf0 at offset 4"):
        list(read_batches(tmp_path))


def test_places_in_a_long_file(tmp_path: Path) -> None:
    """What is wrong far behind in a list is still named by its line and column, and in bytes that are no UTF-8."""
    before = json.dumps([{"x": "é" * 1000} for _ in range(2000)], ensure_ascii=False, indent=1)[:-1]
    (tmp_path / "a.json").write_text(before + ', {"x": 1,, }]')
    with pytest.raises(StageError) as caught:
        list(read_batches(tmp_path))
    lines = before.count("\n") + 1
    assert f"double quotes at line {lines}, column 11" in caught.value.message
    (tmp_path / "a.json").write_bytes(before.encode() + b', {"x": "\xff"}]')
    with pytest.raises(StageError) as caught:
        list(read_batches(tmp_path))
    assert f"byte 0xff at offset {len(before.encode()) + 9} (line {lines})" in caught.value.message


def test_a_name_twice_among_very_many(tmp_path: Path) -> None:
    """The name that stands there twice is found without comparing each with all others, which would take minutes."""
    names = [f"name {number}" for number in range(100_000)]
    row = ",".join(f'"{name}":1' for name in [*names, names[-1]])
    (tmp_path / "a.jsonl").write_text(f"{{{row}}}\n")
    before = time.process_time()
    with pytest.raises(StageError, match="the name `name 99999` more than once"):
        rows_of(tmp_path)
    assert time.process_time() - before < 10


def test_a_bad_row_stands_among_good_ones(tmp_path: Path) -> None:
    """Rows around one that cannot be read are read, each under its own number."""
    lines = [b'{"x": 1}', b'{"x": ', b'"x"', b'{"x": "\xff"}', b'{"x": "' + b"y" * MAX_ROW_BYTES + b'"}', b'{"x": 2}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows = [row for batch in read_batches(tmp_path) for row in parse(batch)]
    reasons = [row.reason if isinstance(row, BadRow) else row.data["x"] for row in rows]
    assert reasons == [1, "NotJson", "WrongShape", "NotUtf8", "RowTooLong", 2]
    assert [row.place for row in rows] == [f"a.jsonl, line {number}" for number in range(1, 7)]


def test_endings_in_capitals(tmp_path: Path) -> None:
    """Files from Windows are read, whatever the letters of their endings."""
    (tmp_path / "a.JSONL").write_text('{"x": "1"}\n')
    (tmp_path / "b.CSV").write_text("x\n2\n")
    (tmp_path / "c.Json").write_text('[{"x": "3"}]')
    pq.write_table(pa.table({"x": ["4"]}), tmp_path / "d.PARQUET")
    assert [row.data for row in rows_of(tmp_path)] == [{"x": number} for number in "1234"]
    assert count_rows(tmp_path) == 4


def test_only_data_files_are_read(tmp_path: Path) -> None:
    """What describes a dataset is not taken for its rows."""
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n')
    for name in ("README.md", "dataset_info.json", "dataset_infos.json", "image.png"):
        (tmp_path / name).write_text("not rows")
    (tmp_path / "folder.json").mkdir()
    assert [row.data for row in rows_of(tmp_path)] == [{"x": 1}]
    assert count_rows(tmp_path) == 1
