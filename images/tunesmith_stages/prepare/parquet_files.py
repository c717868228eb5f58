"""Reads Parquet files in tables of some hundred rows, which are taken apart where they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.memory import limit_above_now, limited_memory
from tunesmith_stages.prepare.row import MAX_ROW_BYTES, BadRow, Batch, RawRow, too_long
from tunesmith_stages.prepare.text_files import other_kind
from tunesmith_stages.program import StageError

MEMORY = 4 * 1024 * 1024 * 1024
"""Bytes that reading one table may take: what a few kilobytes of a file are unpacked to is known when it is there."""


def parquet_tables(path: Path, name: str, rows: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number of rows of each table, and the table as a stream of Arrow's IPC format.

    A table has at most `rows` rows, and not much more than `size` bytes if it has more than one.

    Raises:
        StageError: the file is not Parquet, is damaged, takes too much memory, or has two columns of one name.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            _require_names_once(file.schema_arrow, name)
            tables = file.iter_batches(batch_size=rows, use_threads=False)
            while (table := _next(tables)) is not None:
                part = max(1, table.num_rows * size // max(size, table.nbytes))
                for start in range(0, table.num_rows, part):
                    piece = table.slice(start, part)
                    yield piece.num_rows, _packed(piece)
    except MemoryError:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{name} takes more than {MEMORY:,} bytes of memory to read {rows} of its rows",
            reason="BadParquet",
            hint="Write the file again with smaller row groups (1,000 rows), and without rows of many megabytes.",
        ) from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # Arrow's own are without a number
            raise
        raise _not_parquet(path, name, error) from None


def _next(tables: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    with limited_memory(limit_above_now(MEMORY)):
        return next(tables, None)


def parquet_count(path: Path, name: str) -> int:
    """Return the number of rows; errors as :func:`parquet_tables`."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise _not_parquet(path, name, error) from None


def _require_names_once(fields: Iterable[pa.Field], name: str, above: str = "") -> None:
    """Check that no two columns, nor two fields of the objects in one, have the same name: one value would be lost.

    Raises:
        StageError: two have.
    """
    seen = set()
    for field in fields:
        if field.name in seen:
            raise StageError(
                ExitCode.BAD_DATA,
                f"{name} has the column `{above}{field.name}` more than once",
                reason="BadParquet",
                hint="Give each column a name of its own.",
            )
        seen.add(field.name)
        inside = field.type
        while _is_list(inside):
            inside = inside.item_type if pa.types.is_map(inside) else inside.value_type
        if pa.types.is_struct(inside):
            _require_names_once(inside, name, f"{above}{field.name}.")


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_map)
    return any(is_one(kind) for is_one in lists)


def unpacked(batch: Batch) -> Iterator[RawRow]:
    """Yield the rows of a batch that holds a table."""
    table = pa.ipc.open_stream(batch.table).read_all()
    try:
        rows = table.to_pylist() if table.nbytes <= MAX_ROW_BYTES else None
    except UnicodeDecodeError:
        rows = None
    for index in range(len(batch)):
        if rows is None:
            yield _row(table.slice(index, 1), batch.place(index))
        else:
            yield _columns(rows[index])


def _packed(table: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_batch(table)
    return bytes(sink.getvalue())


def _row(table: pa.Table, place: str) -> RawRow:
    """Return the one row of a table, or why it cannot be used."""
    if table.nbytes > MAX_ROW_BYTES:
        return too_long(place, table.nbytes)
    try:
        return _columns(table.to_pylist()[0])
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{error.object[error.start]:02x} at offset {error.start} of a text"
        return BadRow(place, f"{place} is not UTF-8: {wrong}", "NotUtf8", "Write the file again from texts in UTF-8.")


def _columns(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: _without_gaps(value) for name, value in row.items()}


def _without_gaps(value: Any) -> Any:
    """Return a value of a column without the fields that are null in it.

    Parquet gives all objects of a column the same fields: what a row did not have is null there.
    """
    if isinstance(value, dict):
        return {name: _without_gaps(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_gaps(item) for item in value]
    return value


def _not_parquet(path: Path, name: str, error: Exception) -> StageError:
    with path.open("rb") as file:
        head = file.read(64)
    what = other_kind(head)
    known = what and not head.startswith(b"PAR1")
    why = f"it is {what}" if known else str(error).partition("\n")[0].rstrip(".")
    return StageError(
        ExitCode.BAD_DATA,
        f"{name} is not a Parquet file that can be read: {why}",
        reason="BadParquet",
        hint="Copy the file again, or name it after what it is: .json, .jsonl, .csv or .txt.",
    )
