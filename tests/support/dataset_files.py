"""Reads datasets in tests as the stage does, but all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.reader import read_conversations
from tunesmith_stages.prepare.recognition import reader_for
from tunesmith_stages.prepare.row import BadRow, Row
from tunesmith_stages.prepare.rows import parse, read_batches


def rows_of(folder: Path) -> list[Row]:
    """Return all rows of a dataset; the first bad one is raised."""
    rows = []
    for batch in read_batches(folder):
        for row in parse(batch):
            if isinstance(row, BadRow):
                raise row.error()
            rows.append(row)
    return rows


def dataset(name: str = "faq", **changes: Any) -> dict[str, Any]:
    """Return what stage.json says of a dataset, with some of it changed."""
    plain = {
        "name": name,
        "builtin": False,
        "use": "Training",
        "datasetInfo": None,
        "format": "Auto",
        "columns": None,
        "tags": None,
        "maxSamples": None,
        "weight": "1",
        "onBadRow": "Fail",
        "substitutions": {},
    }
    return {**plain, **changes}


def read_all(folder: Path, preferences: str | None = None, **changes: Any) -> list[Conversation | BadRow]:
    """Return what each row of a dataset says, or why it says nothing."""
    reader = reader_for(dataset(**changes), folder, preferences)
    return [item for batch in read_batches(folder) for item in read_conversations(batch, reader)]
