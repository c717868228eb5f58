"""Writes for people what `prepare` found and made: ``logs/report.json`` (design note 0004)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith_stages.prepare.collecting import Collected, Dataset
from tunesmith_stages.prepare.encoder import Encoder
from tunesmith_stages.prepare.preferences import LABELS, PAIRS
from tunesmith_stages.prepare.rows import data_files
from tunesmith_stages.prepare.splitting import Split
from tunesmith_stages.prepare.spool import Samples

_BARS = 16 * 2 ** np.arange(27, dtype=np.int64)
"""Most tokens of a sample in each bar of the histogram; as long as the last one may no row be."""


@dataclass
class Totals:
    """What samples come to, each counted as often as it is used."""

    trained: int = 0
    """Samples to train with."""
    measured: int = 0
    """Samples to measure with."""
    tokens: int = 0
    labelled: int = 0
    desirable: int = 0
    """Samples to train with whose labels say that their answers are desirable."""
    desirable_measured: int = 0
    """The same of those to measure with."""
    longest: int = 0
    bars: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros_like(_BARS))

    def add(self, samples: Samples, split: Split) -> None:
        """Count some samples."""
        trained, measured = split.trained(samples), split.measured(samples)
        times = trained.astype(np.int64) + measured
        longer = np.maximum(samples["length"], samples["rejected"])
        self.trained += int(trained.sum())
        self.measured += int(measured.sum())
        self.tokens += int(((samples["length"] + samples["rejected"]) * times).sum())
        self.labelled += int((samples["labelled"] * times).sum())
        self.desirable += int(trained[samples["desirable"]].sum())
        self.desirable_measured += int(measured[samples["desirable"]].sum())
        self.longest = max(self.longest, int(longer[times > 0].max(initial=0)))
        np.add.at(self.bars, np.searchsorted(_BARS, longer), times)

    def histogram(self) -> list[dict[str, int]]:
        """Return how many samples have up to 16 tokens, up to 32, and so on, to the bar with the longest."""
        count = int(np.searchsorted(_BARS, self.longest)) + 1
        pairs = zip(_BARS[:count].tolist(), self.bars[:count].tolist(), strict=True)
        return [{"upTo": upper, "samples": samples} for upper, samples in pairs]


def totals_of(collected: Collected, split: Split) -> Totals:
    """Count all samples."""
    totals = Totals()
    for samples in collected.kept.parts():
        totals.add(samples, split)
    return totals


def report_of(
    collected: Collected, encoder: Encoder, split: Split, totals: Totals, rows: Mapping[str, int], capacity: int | None
) -> dict[str, Any]:
    """Return what there is to say about the data.

    Args:
        collected: what came of the rows.
        encoder: what they were encoded with.
        split: which samples are held back.
        totals: what the samples come to.
        rows: rows written to ``train`` and ``validation``.
        capacity: tokens that a packed row may have; None: they are not packed.
    """
    samples = totals.trained + totals.measured
    count = sum(rows.values())
    return {
        "datasets": {dataset.name: _dataset(dataset) for dataset in collected.datasets},
        "rows": rows["train"],
        "validationRows": rows.get("validation", 0),
        "samples": samples,
        "duplicateRows": split.duplicates,
        "validationRowsTrainedOn": split.measured_and_trained,
        "tokens": totals.tokens,
        "labelledTokens": totals.labelled,
        "longest": totals.longest,
        "rowsLeftOut": collected.left_out,
        "rowsCutAtTurns": collected.cut_at_turns,
        "rowsWithControlText": collected.control_texts,
        "histogram": totals.histogram(),
        "packing": {"rows": count, "samples": samples, "fill": round(totals.tokens / (count * capacity), 4)}
        if capacity
        else None,
        "template": {
            "name": encoder.template_name,
            "thinking": encoder.thinking,
            "perTurn": collected.per_turn,
            "date": encoder.date,
        },
        "firstRow": encoder.marked(collected.first[0]) if collected.first else [],
        **_preferences(collected, encoder, totals),
    }


def _preferences(collected: Collected, encoder: Encoder, totals: Totals) -> Mapping[str, Any]:
    """Return what there is to say besides about data that say what people prefer."""
    kind = collected.datasets[0].reader.preferences
    if kind == PAIRS:
        return {"preferences": {"kind": kind}, "firstRejected": encoder.marked(collected.first[1])}
    if kind == LABELS:
        undesirable = totals.trained - totals.desirable
        return {"preferences": {"kind": kind, "desirable": totals.desirable, "undesirable": undesirable}}
    return {}


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
