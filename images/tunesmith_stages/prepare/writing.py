"""Writes samples as Arrow: first all in the order of the data, then those to train on and those held back.

A file of samples is mapped into memory and read batch by batch, so that memory does not grow with the data. Equal
samples give equal files, however they come in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunesmith_stages.prepare.packing import WINDOW_SAMPLES, WINDOW_TOKENS, pack
from tunesmith_stages.prepare.preferences import LABELS, PAIRS

_LIST = pa.list_(pa.int32())
SAMPLES = pa.schema([("input_ids", _LIST), ("labels", _LIST)])
"""Columns of samples, and of rows that are a sample each."""
_PAIRS = SAMPLES.append(pa.field("rejected_input_ids", _LIST)).append(pa.field("rejected_labels", _LIST))
_LABELLED = SAMPLES.append(pa.field("desirable", pa.bool_()))
SCHEMAS = {None: SAMPLES, PAIRS: _PAIRS, LABELS: _LABELLED}
"""The same of samples that say what people prefer: of pairs the first two columns are of the chosen answer."""
PACKED = SAMPLES.append(pa.field("lengths", _LIST))
"""Columns of rows that are made of several samples."""
_ROWS_PER_BATCH = 1000

Ints = npt.NDArray[np.int32]


class RowWriter:
    """Writes an Arrow IPC file in batches of `_ROWS_PER_BATCH` rows, however many come at a time."""

    def __init__(self, path: Path, schema: Any = SAMPLES) -> None:
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)
        self._schema = schema
        self._held: list[Any] = []
        self._rows_held = 0
        self.rows = 0
        """Rows written so far."""

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self._write(whole_batches=False)
            self._writer.close()
        self._file.close()

    def add(self, batch: Any) -> None:
        """Write the rows of a record batch."""
        self._held.append(batch)
        self._rows_held += batch.num_rows
        self.rows += batch.num_rows
        if self._rows_held >= _ROWS_PER_BATCH:
            self._write(whole_batches=True)

    def _write(self, *, whole_batches: bool) -> None:
        held = pa.Table.from_batches(self._held, self._schema).combine_chunks().to_batches(_ROWS_PER_BATCH)
        self._held, self._rows_held = [], 0
        for batch in held:
            if whole_batches and batch.num_rows < _ROWS_PER_BATCH:
                self._held, self._rows_held = [batch], batch.num_rows
            else:
                self._writer.write_batch(_copied(batch))


def _copied(batch: Any) -> Any:
    """Return a record batch with columns of its own; of a mere view, bytes beyond it might get into the file."""
    return pa.record_batch([_copied_column(column) for column in batch.columns], schema=batch.schema)


def _copied_column(column: Any) -> Any:
    if pa.types.is_boolean(column.type):
        return pa.array(column.to_numpy(zero_copy_only=False))
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy()[offsets[0] : offsets[-1]].copy()
    return pa.ListArray.from_arrays(offsets - offsets[0], values)


@dataclass(frozen=True)
class Flat:
    """Samples, one after the other."""

    ids: Ints
    """Token ids of all."""
    labels: Ints
    lengths: Ints
    """Tokens of each."""

    def columns(self) -> list[Any]:
        """Return ids and labels as a list for each sample."""
        offsets = _offsets(self.lengths)
        return [pa.ListArray.from_arrays(offsets, flat) for flat in (self.ids, self.labels)]


def batch_of(samples: Flat, rejected: Flat | None = None, desirable: npt.NDArray[np.bool_] | None = None) -> Any:
    """Return samples as a record batch.

    Args:
        samples: of pairs those with the chosen answers.
        rejected: of pairs those with the rejected answers.
        desirable: the labels of samples that have one.
    """
    if rejected is not None:
        return pa.record_batch([*samples.columns(), *rejected.columns()], schema=_PAIRS)
    if desirable is not None:
        return pa.record_batch([*samples.columns(), pa.array(desirable)], schema=_LABELLED)
    return pa.record_batch(samples.columns(), schema=SAMPLES)


@dataclass(frozen=True)
class Choice:
    """Which samples of a file are used."""

    times: Callable[[int, int], npt.NDArray[np.uint32]]
    """Returns how often each from one number up to another is used."""
    spans: Sequence[slice]
    """The samples of each dataset. Those of one that are used again come again before the next dataset's."""


def write_rows(samples: Path, choice: Choice, path: Path, capacity: int | None = None) -> int:
    """Write the chosen samples of a file as a row each, or packed; return the number of rows.

    Args:
        samples: file of all samples.
        choice: which of them.
        path: where to write.
        capacity: tokens that a packed row may have; None: no packing.
    """
    with pa.memory_map(str(samples)) as file:
        reader = pa.ipc.open_file(file)
        if capacity and reader.schema != SAMPLES:
            raise ValueError("samples that say what people prefer are not packed")
        chosen = _chosen(reader, choice)
        batches = (_packed(window, capacity) for window in _windows(chosen)) if capacity else chosen
        with RowWriter(path, PACKED if capacity else reader.schema) as writer:
            for batch in batches:
                writer.add(batch)
    return writer.rows


def _chosen(reader: Any, choice: Choice) -> Iterator[Any]:
    """Yield the chosen samples in record batches."""
    for span in choice.spans:
        for already in itertools.count():
            batches = _used(reader, choice, span, already)
            first = next(batches, None)
            if first is None:
                break
            yield first
            yield from batches


def _used(reader: Any, choice: Choice, span: slice, already: int) -> Iterator[Any]:
    """Yield the samples of a dataset that are used more than `already` times."""
    for number in range(span.start // _ROWS_PER_BATCH, -(-span.stop // _ROWS_PER_BATCH)):
        begin = number * _ROWS_PER_BATCH
        start, stop = max(begin, span.start), min(begin + _ROWS_PER_BATCH, span.stop)
        used = choice.times(start, stop) > already
        if used.any():
            batch = reader.get_batch(number).slice(start - begin, stop - start)
            yield batch if used.all() else batch.filter(pa.array(used))


def _windows(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the samples in batches that are large enough to be packed well, and no larger than memory bears."""
    held: list[Any] = []
    samples = tokens = 0
    for batch in batches:
        held.append(batch)
        samples += batch.num_rows
        tokens += len(batch.column("input_ids").flatten())
        if samples >= WINDOW_SAMPLES or tokens >= WINDOW_TOKENS:
            yield _joined(held)
            held, samples, tokens = [], 0, 0
    if samples:
        yield _joined(held)


def _joined(batches: list[Any]) -> Any:
    (joined,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return joined


def _packed(samples: Any, capacity: int) -> Any:
    """Return the samples of a record batch as packed rows."""
    lengths = np.diff(samples.column("input_ids").offsets.to_numpy())
    rows = pack(lengths, capacity)
    order = np.array([sample for row in rows for sample in row])
    taken = samples.take(pa.array(order))
    counts = np.array([len(row) for row in rows], np.int32)
    lengths = lengths[order]
    tokens = np.add.reduceat(lengths, _offsets(counts)[:-1], dtype=np.int32)
    columns = [pa.ListArray.from_arrays(_offsets(tokens), taken.column(name).flatten()) for name in SAMPLES.names]
    return pa.record_batch([*columns, pa.ListArray.from_arrays(_offsets(counts), pa.array(lengths))], schema=PACKED)


def _offsets(lengths: Ints) -> Ints:
    """Return where each of some lists begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
