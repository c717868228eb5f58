"""Writes for people what `prepare` found and made: ``logs/report.json`` (design note 0004)."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith_stages.prepare.collecting import Collected, Dataset
from tunesmith_stages.prepare.encoder import Encoder
from tunesmith_stages.prepare.rows import data_files

Times = npt.NDArray[np.uint32]

_SMALLEST = 16
"""Bound of the histogram's first bar, in tokens."""


def report_of(
    collected: Collected, encoder: Encoder, times: Times, rows: Mapping[str, int], capacity: int | None
) -> dict[str, Any]:
    """Return what there is to say about the data.

    Args:
        collected: what came of the rows.
        encoder: what they were encoded with.
        times: how often each sample is used in the end, to train with and to measure with.
        rows: rows written to ``train`` and ``validation``.
        capacity: tokens that a packed row may have; None: they are not packed.
    """
    lengths = np.frombuffer(collected.lengths, np.int32)
    tokens = _total(collected.lengths, times)
    samples = int(times.sum())
    count = sum(rows.values())
    return {
        "datasets": {dataset.name: _dataset(dataset) for dataset in collected.datasets},
        "rows": rows["train"],
        "validationRows": rows.get("validation", 0),
        "samples": samples,
        "tokens": tokens,
        "labelledTokens": _total(collected.labelled, times),
        "longest": int(lengths[times > 0].max()),
        "rowsLeftOut": collected.left_out,
        "rowsCutAtTurns": collected.cut_at_turns,
        "rowsWithControlText": collected.control_texts,
        "histogram": histogram(lengths, times),
        "packing": {"rows": count, "samples": samples, "fill": round(tokens / (count * capacity), 4)}
        if capacity
        else None,
        "template": {"name": encoder.template_name, "thinking": encoder.thinking, "perTurn": collected.per_turn},
        "firstRow": encoder.marked(collected.first) if collected.first else [],
    }


def _total(numbers: array[int], times: Times) -> int:
    return int((np.frombuffer(numbers, np.int32) * times.astype(np.int64)).sum())


def _dataset(dataset: Dataset) -> Mapping[str, Any]:
    return {
        "format": dataset.reader.format,
        "found": dataset.reader.found,
        "files": list(data_files(dataset.folder)),
        "rows": len(dataset.times),
        "used": dataset.used,
        "samples": dataset.samples,
        "badRows": dataset.bad.number,
        "badRowExamples": list(dataset.bad.examples),
    }


def histogram(lengths: npt.NDArray[np.int32], times: Times) -> list[dict[str, int]]:
    """Return how many samples have up to 16 tokens, up to 32, and so on, each counted as often as it is used."""
    bars = []
    lower, upper = 0, _SMALLEST
    while lower < lengths.max():
        bars.append({"upTo": upper, "samples": int(times[(lengths > lower) & (lengths <= upper)].sum())})
        lower, upper = upper, 2 * upper
    return bars
