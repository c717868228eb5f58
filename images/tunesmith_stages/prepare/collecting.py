"""Collects what the processes give back: the samples in one file, and what there is to know of each and of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.bad_rows import BadRows
from tunesmith_stages.prepare.pipeline import Portion, Sides
from tunesmith_stages.prepare.reader import Reader
from tunesmith_stages.prepare.spool import KeptSamples
from tunesmith_stages.prepare.writing import RowWriter
from tunesmith_stages.program import StageError

_PROMPTS = 256
"""Prompts that are kept to choose probes from."""


@dataclass
class Dataset:
    """One dataset, and how far it is read."""

    name: str
    folder: Path
    reader: Reader
    times: npt.NDArray[np.uint32]
    """How often each of its rows is used."""
    bad: BadRows
    held_out: bool = False
    """Whether it is measured with instead of trained on."""
    used: int = 0
    """How often rows are used in all; bad ones are not, ones that are too long are counted."""
    samples: int = 0
    """Samples that are kept, each once."""


@dataclass
class Collected:
    """What came of all rows so far. Nothing of a sample is held in memory."""

    datasets: Sequence[Dataset]
    kept: KeptSamples
    read: int = 0
    """Rows read."""
    left_out: int = 0
    longest: int = 0
    cut_at_turns: int = 0
    per_turn: int = 0
    control_texts: int = 0
    first: Sides = ()
    """The first sample, if there is one."""
    prompts: list[Mapping[str, Any]] = field(default_factory=list)
    """Up to _PROMPTS of those that were offered, spread evenly."""
    _offered: int = 0
    _stride: int = 1

    def add(self, portion: Portion, file: RowWriter) -> None:
        """Take in a portion; they must come in order.

        Raises:
            StageError: it has a bad row, and the dataset allows none.
        """
        dataset = self.datasets[portion.source]
        for bad in portion.bad:
            dataset.bad.add(bad)
        dataset.used += portion.used
        dataset.samples += len(portion.samples)
        self._add_counts(portion)
        for prompt in portion.prompts:
            self.offer(prompt)
        if not len(portion.samples):
            return
        self.first = self.first or portion.first
        self.kept.add(portion.samples)
        file.add(portion.batch())

    def _add_counts(self, portion: Portion) -> None:
        self.read += portion.read
        self.longest = max(self.longest, portion.longest)
        for name in ("left_out", "cut_at_turns", "per_turn", "control_texts"):
            setattr(self, name, getattr(self, name) + getattr(portion, name))

    def offer(self, prompt: Mapping[str, Any]) -> None:
        """Keep a prompt, if it is its turn: when they become too many, only every second one is kept from then on."""
        if self._offered % self._stride == 0:
            self.prompts.append(prompt)
            if len(self.prompts) > _PROMPTS:
                del self.prompts[1::2]
                self._stride *= 2
        self._offered += 1

    @property
    def spans(self) -> list[slice]:
        """The samples of each dataset."""
        edges = np.cumsum([0, *(dataset.samples for dataset in self.datasets)]).tolist()
        return [slice(start, stop) for start, stop in pairwise(edges)]

    def check(self, sequence_length: int) -> None:
        """Check that there is something to train on.

        Raises:
            StageError: there is not.
        """
        for dataset in self.datasets:
            if not dataset.used:
                dataset.bad.check(int(np.count_nonzero(dataset.times)))
            if dataset.held_out and not dataset.samples:
                raise StageError(
                    ExitCode.BAD_DATA,
                    f"dataset `{dataset.name}` has `use: Validation`, and all of its rows are longer than "
                    f"`sequenceLength` {sequence_length}",
                    reason="NoRowsLeft",
                    hint="Raise `training.sequenceLength`, shorten the rows, or remove the dataset.",
                )
        if not any(dataset.samples for dataset in self.datasets if not dataset.held_out):
            raise StageError(
                ExitCode.BAD_DATA,
                f"no row is left: all {self.left_out} are longer than `sequenceLength` {sequence_length}; "
                f"the longest has {self.longest} tokens",
                reason="NoRowsLeft",
                hint="Raise `training.sequenceLength` or shorten the rows.",
            )
