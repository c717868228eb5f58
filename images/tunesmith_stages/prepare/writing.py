"""Writes the prepared rows as Arrow, which training maps into memory and only reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from tunesmith_stages.prepare.labels import Example

_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
_ROWS_PER_BATCH = 1000


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write rows in Arrow's IPC file format; equal rows give equal files."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for start in range(0, len(examples), _ROWS_PER_BATCH):
            batch = examples[start : start + _ROWS_PER_BATCH]
            columns = [[example.input_ids for example in batch], [example.labels for example in batch]]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
