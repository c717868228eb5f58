"""What is done with a batch of rows, in whatever process: parse, render, tokenize, label, and cut to length.

A :class:`Preparer` makes a :class:`Portion` of a :class:`Task`. Both travel between processes, so a portion holds plain
arrays for all its samples together. What a portion holds depends on its task alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.encoder import Encoder
from tunesmith_stages.prepare.labels import IGNORED, Example
from tunesmith_stages.prepare.reader import Reader, read_conversations
from tunesmith_stages.prepare.row import BadRow, Batch
from tunesmith_stages.program import StageError

Ints = npt.NDArray[np.int32]

_PROVE_EVERY = 50
"""Of the first batch the labels of all rows are proven, of the others those of every so many-th."""
_PROMPTS_OF_FIRST, _PROMPTS = 32, 4
"""Prompts that are offered as probes by the first batch, and by each of the others."""


@dataclass(frozen=True)
class Source:
    """A dataset, as far as its rows are to be read."""

    name: str
    reader: Reader


@dataclass(frozen=True)
class Task:
    """A batch of rows to prepare."""

    source: int
    """Number of the dataset."""
    batch: Batch
    times: npt.NDArray[np.uint32]
    """How often each of the batch's rows is used. Those that are not are read, too: a bad one is bad anyhow."""
    first: bool
    """Whether it is the first of all."""


@dataclass(frozen=True)
class Portion:
    """What a task came to. Samples are those that are kept, in the rows' order; each is here once."""

    source: int
    """Number of the dataset."""
    read: int
    """Rows of the batch."""
    ids: Ints
    """Token ids of all samples, one after the other."""
    labels: Ints
    lengths: Ints
    """Number of tokens of each sample."""
    rows: npt.NDArray[np.int64]
    """Which row of the dataset each sample is of, counted from 0."""
    bad: tuple[BadRow, ...]
    used: int
    """How often rows are used in all, too long ones included."""
    left_out: int
    """Samples that are too long."""
    longest: int
    """Tokens of the longest sample, those left out included."""
    cut_at_turns: int
    """Samples that had to be tokenized turn by turn."""
    per_turn: int
    """Rows that became one sample for each answer."""
    control_texts: int
    """Rows with text that looks like a control token, and is none."""
    prompts: tuple[Mapping[str, Any], ...]
    """What may become a probe, as in ``probes.json``."""
    example: Example | None
    """The first sample."""


@dataclass(frozen=True)
class Preparer:
    """Prepares tasks."""

    encoder: Encoder
    sources: Sequence[Source]
    sequence_length: int

    def __call__(self, task: Task) -> Portion:
        """Return what a task comes to.

        Raises:
            StageError: the template or the tokenizer cannot be worked with.
        """
        rows, conversations, bad = self._read(task)
        encoded = self.encoder.encode(conversations, prove_every=1 if task.first else _PROVE_EVERY)
        gathered = _Gathered(self.sequence_length)
        for row, conversation, examples in zip(rows, conversations, encoded, strict=True):
            if isinstance(examples, StageError):
                bad.append(self._bad(task, conversation.place, examples))
            else:
                gathered.add(row, int(task.times[row - task.batch.start]), conversation, examples)
        asked = gathered.asked[:: max(1, len(gathered.asked) // (_PROMPTS_OF_FIRST if task.first else _PROMPTS))]
        prompts = [self.encoder.prompt(conversation) for conversation in asked]
        return gathered.portion(task, tuple(bad), tuple(prompt for prompt in prompts if prompt))

    def _read(self, task: Task) -> tuple[list[int], list[Conversation], list[BadRow]]:
        """Return the rows that are used by their numbers, and as conversations; and which are no good."""
        source = self.sources[task.source]
        called = self._called(task)
        rows, conversations, bad = [], [], []
        read = read_conversations(task.batch, source.reader)
        for position, (item, times) in enumerate(zip(read, task.times.tolist(), strict=True)):
            if isinstance(item, BadRow):
                bad.append(item)
            elif times:
                rows.append(task.batch.start + position)
                place = f"{called}{item.place}"
                conversations.append(Conversation(place, item.messages, item.tools, item.text, item.ignored))
        return rows, conversations, bad

    def _bad(self, task: Task, place: str, error: StageError) -> BadRow:
        """Return a row that could not be encoded, as one that could not be read is: without the dataset's name."""
        called = self._called(task)
        bad = BadRow.of(place.removeprefix(called), error)
        return dataclasses.replace(bad, message=bad.message.removeprefix(called))

    def _called(self, task: Task) -> str:
        return f"dataset `{self.sources[task.source].name}`, "


class _Gathered:
    """The samples of a task and what there is to say of them."""

    def __init__(self, sequence_length: int) -> None:
        self._sequence_length = sequence_length
        self._rows: list[int] = []
        self._samples: list[Example] = []
        self._counts = dict.fromkeys(("used", "left_out", "longest", "cut_at_turns", "per_turn", "control_texts"), 0)
        self.asked: list[Conversation] = []
        """Conversations that have a sample."""

    def add(self, row: int, times: int, conversation: Conversation, examples: Sequence[Example]) -> None:
        """Add the samples of a row that is used so many times: those that fit, or the pieces of a plain text."""
        longest = max(len(example.input_ids) for example in examples)
        if conversation.text is not None:
            examples = [piece for example in examples for piece in self._pieces(example)]
        fit = [example for example in examples if len(example.input_ids) <= self._sequence_length]
        self._samples += fit
        self._rows += [row] * len(fit)
        counts = self._counts
        counts["used"] += times
        counts["left_out"] += len(examples) - len(fit)
        counts["longest"] = max(counts["longest"], longest)
        counts["cut_at_turns"] += sum(example.cut_at_turns for example in fit)
        counts["per_turn"] += examples[0].per_turn
        counts["control_texts"] += any(example.control_text for example in examples)
        if fit and conversation.messages:
            self.asked.append(conversation)

    def _pieces(self, example: Example) -> Iterator[Example]:
        """Yield a plain text in pieces of the allowed length; one of a single token has nothing to predict."""
        for start in range(0, len(example.input_ids), self._sequence_length):
            part = slice(start, start + self._sequence_length)
            if len(example.input_ids[part]) > 1:
                yield dataclasses.replace(example, input_ids=example.input_ids[part], labels=example.labels[part])

    def portion(self, task: Task, bad: tuple[BadRow, ...], prompts: tuple[Mapping[str, Any], ...]) -> Portion:
        """Return all as arrays."""
        lengths = np.array([len(example.input_ids) for example in self._samples], np.int32)
        labels = _joined([example.labels for example in self._samples])
        # Nothing comes before a sample's first token, so nothing predicts it. Within a packed row something would.
        labels[np.cumsum(lengths) - lengths] = IGNORED
        return Portion(
            source=task.source,
            read=len(task.batch),
            ids=_joined([example.input_ids for example in self._samples]),
            labels=labels,
            lengths=lengths,
            rows=np.array(self._rows, np.int64),
            bad=bad,
            prompts=prompts,
            example=self._samples[0] if self._samples else None,
            **self._counts,
        )


def _joined(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int32), *arrays])
