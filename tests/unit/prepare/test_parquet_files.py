from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.dataset_files import read_all, rows_of
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare import parquet_files
from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.row import MAX_ROW_BYTES, BadRow
from tunesmith_stages.prepare.rows import count_rows, parse, read_batches
from tunesmith_stages.program import StageError


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)


def test_rows_in_their_order(tmp_path: Path) -> None:
    """Rows are counted over all row groups, and nested columns are lists and objects."""
    rows: list[dict[str, Any]] = [{"x": number, "y": [{"z": "é" * 100}]} for number in range(1203)]
    write(tmp_path / "t.parquet", rows, row_group_size=400)
    found = rows_of(tmp_path)
    assert [row.data for row in found] == rows
    assert [found[0].place, found[-1].place] == ["t.parquet, row 1", "t.parquet, row 1203"]
    assert count_rows(tmp_path) == 1203


def test_large_rows_travel_in_small_batches(tmp_path: Path) -> None:
    """A batch of rows with long texts holds fewer of them; a row that is too long is a bad one."""
    write(tmp_path / "t.parquet", [{"x": "y" * (MAX_ROW_BYTES + 100 if n == 7 else 200_000)} for n in range(60)])
    batches = list(read_batches(tmp_path))
    assert sum(map(len, batches)) == 60
    assert all(len(batch.table) < 12_000_000 for batch in batches)
    rows = [row for batch in batches for row in parse(batch)]
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert [(row.place, row.reason) for row in bad] == [("t.parquet, row 8", "RowTooLong")]


def test_what_a_row_does_not_have_is_not_there(tmp_path: Path) -> None:
    """Parquet gives all objects the fields of all rows: those that are null are no fields of a row's messages."""
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    call = {"type": "function", "function": {"name": "look", "arguments": {"where": "here"}}}
    other = {"type": "function", "function": {"name": "wait", "arguments": {"seconds": 5}}}
    rows = [
        {
            "messages": [
                *talk,
                {"role": "user", "content": "Do"},
                {"role": "assistant", "content": "", "tool_calls": [made]},
            ]
        }
        for made in (call, other)
    ]
    write(tmp_path / "t.parquet", [{"messages": talk}, *rows])
    first, second, third = read_all(tmp_path)
    assert isinstance(first, Conversation)
    assert first.messages == talk
    assert isinstance(second, Conversation)
    assert second.messages[-1]["tool_calls"] == [call]
    assert isinstance(third, Conversation)
    assert third.messages[-1]["tool_calls"] == [other]


TWICE: dict[str, tuple[pa.Schema, str]] = {
    "two columns": (pa.schema([("x", pa.string()), ("y", pa.string()), ("x", pa.string())]), "`x`"),
    "two fields of messages": (
        pa.schema([("m", pa.list_(pa.struct([("role", pa.string()), ("role", pa.string())])))]),
        "`m.role`",
    ),
    "two fields of an object in an object": (
        pa.schema([("a", pa.struct([("b", pa.struct([("c", pa.int8()), ("c", pa.int8())]))]))]),
        "`a.b.c`",
    ),
    "two fields of the values of a map": (
        pa.schema([("a", pa.map_(pa.string(), pa.struct([("b", pa.int8()), ("b", pa.int8())])))]),
        "`a.b`",
    ),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_name_of_two_columns(tmp_path: Path, case: str) -> None:
    """Of two columns of one name neither is taken for the one that is meant."""
    schema, named = TWICE[case]
    columns = [pa.nulls(1, field.type) for field in schema]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), tmp_path / "t.parquet")
    with pytest.raises(StageError) as caught:
        rows_of(tmp_path)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "BadParquet")
    assert str(caught.value).startswith(f"t.parquet has the column {named} more than once")


def test_a_text_that_is_not_utf8(tmp_path: Path) -> None:
    """Bytes that are no text make a bad row; the others of its batch are read."""
    texts = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"caf\xe9", b"c"]).buffers())
    pq.write_table(pa.table({"x": texts}), tmp_path / "t.parquet")
    rows = [row for batch in read_batches(tmp_path) for row in parse(batch)]
    found = [row.message if isinstance(row, BadRow) else row.data["x"] for row in rows]
    assert found == ["a", "t.parquet, row 2 is not UTF-8: byte 0xe9 at offset 3 of a text", "c"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"x": 1}\n', "t.parquet is not a Parquet file that can be read: Parquet magic bytes not found"),
        (b"", "t.parquet is not a Parquet file that can be read: Parquet file size is 0 bytes"),
        (b"\x1f\x8b" + b"\0" * 100, "it is compressed with gzip"),
        (b"PAR1" + b"\0" * 100 + b"PAR1", "t.parquet is not a Parquet file that can be read"),
    ],
)
def test_what_is_no_parquet(tmp_path: Path, content: bytes, words: str) -> None:
    """A file of another kind, or a damaged one, is refused in one sentence, by reading and by counting."""
    (tmp_path / "t.parquet").write_bytes(content)
    for act in (rows_of, count_rows):
        with pytest.raises(StageError) as caught:
            act(tmp_path)
        assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "BadParquet")
        assert words in caught.value.message
        assert "\n" not in caught.value.message


def test_a_damaged_page(tmp_path: Path) -> None:
    """A file whose end is whole but whose rows are not is refused, too."""
    write(tmp_path / "t.parquet", [{"x": f"text {n}"} for n in range(1000)], compression="zstd", use_dictionary=False)
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[30:400] = bytes(370)
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(StageError) as caught:
        rows_of(tmp_path)
    assert caught.value.reason == "BadParquet"


BOMBS = {
    "a page": "{'x': ['a' * 90_000_000]}",
    "a value that each row repeats": "{'x': ['a' * 2_000_000] * 100}",
    "columns": "{f'x{number}': ['a' * 7_000_000] * 2 for number in range(15)}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_is_unpacked_to_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, name: str
) -> None:
    """A file of some kilobytes that would fill the memory is refused when it has taken what one table may have."""
    path = tmp_path / "t.parquet"
    write = f"pq.write_table(pa.table({BOMBS[name]}), {str(path)!r}, compression='zstd', write_statistics=False)"
    # In a process of its own, and without Arrow's own pool: that asks for a gigabyte at once, and keeps what it had.
    subprocess.run([sys.executable, "-c", f"import pyarrow as pa, pyarrow.parquet as pq; {write}"], check=True)
    assert path.stat().st_size < 150_000
    monkeypatch.setattr(parquet_files, "MEMORY", 64 * 1024 * 1024)
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    request.addfinalizer(lambda: pa.set_memory_pool(pool))
    with pytest.raises(StageError, match=r"^t\.parquet takes more than 67,108,864 bytes of memory") as caught:
        rows_of(tmp_path)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "BadParquet")
