"""What is done with a batch of rows, in whatever process: parse, render, tokenize, label, and cut to length.

A :class:`Preparer` makes a :class:`Portion` of a :class:`Task`. Both travel between processes, so a portion holds plain
arrays for all its samples together. What a portion holds depends on its task alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.encoder import Encoder
from tunesmith_stages.prepare.labels import IGNORED, Example
from tunesmith_stages.prepare.preferences import LABELS, PAIRS
from tunesmith_stages.prepare.reader import Reader, read_conversations
from tunesmith_stages.prepare.row import BadRow, Batch
from tunesmith_stages.prepare.spool import SAMPLE, Samples
from tunesmith_stages.prepare.writing import Flat, batch_of
from tunesmith_stages.program import StageError

Ints = npt.NDArray[np.int32]
Sides = tuple[Example, ...]
"""A sample; of a pair that with the chosen answer and that with the rejected one."""

_PROVE_EVERY = 50
"""Of the first batch the labels of all rows are proven, of the others those of every so many-th."""
_PROMPTS_OF_FIRST, _PROMPTS = 32, 4
"""Prompts that are offered as probes by the first batch, and by each of the others."""


@dataclass(frozen=True)
class Source:
    """A dataset, as far as its rows are to be read."""

    name: str
    reader: Reader
    held_out: bool
    """Whether it is there to measure with."""


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
    flat: Flat
    """The tokens of all samples; of pairs those with the chosen answer."""
    rejected: Flat | None
    """Of pairs the samples with the rejected answer."""
    labelled: bool
    """Whether the samples have labels."""
    samples: Samples
    """What there is to know of each sample besides."""
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
    first: Sides
    """The first sample, if there is one."""

    def batch(self) -> Any:
        """Return the samples as a record batch."""
        return batch_of(self.flat, self.rejected, self.samples["desirable"] if self.labelled else None)


@dataclass(frozen=True)
class Preparer:
    """Prepares tasks."""

    encoder: Encoder
    sources: Sequence[Source]
    sequence_length: int
    seed: int
    """Has a part in the rows' digests."""

    def __call__(self, task: Task) -> Portion:
        """Return what a task comes to.

        Raises:
            StageError: the template or the tokenizer cannot be worked with.
        """
        used, conversations, bad = self._read(task)
        encoded = self.encoder.encode(conversations, prove_every=1 if task.first else _PROVE_EVERY)
        gathered = _Gathered(self.sequence_length, self.seed, self.sources[task.source].reader.preferences)
        for times, conversation, examples in zip(used, conversations, encoded, strict=True):
            if isinstance(examples, StageError):
                bad.append(self._bad(task, conversation.place, examples))
            else:
                gathered.add(times, conversation, examples)
        asked = gathered.asked[:: max(1, len(gathered.asked) // (_PROMPTS_OF_FIRST if task.first else _PROMPTS))]
        prompts = [self.encoder.prompt(conversation) for conversation in asked]
        return gathered.portion(
            task, tuple(bad), tuple(prompt for prompt in prompts if prompt), self.sources[task.source].held_out
        )

    def _read(self, task: Task) -> tuple[list[int], list[Conversation], list[BadRow]]:
        """Return how often each row is used that is, and its conversation; and which rows are no good."""
        source = self.sources[task.source]
        called = self._called(task)
        used, conversations, bad = [], [], []
        read = read_conversations(task.batch, source.reader)
        for item, times in zip(read, task.times.tolist(), strict=True):
            if isinstance(item, BadRow):
                bad.append(item)
            elif times:
                used.append(times)
                conversations.append(item.at(f"{called}{item.place}"))
        return used, conversations, bad

    def _bad(self, task: Task, place: str, error: StageError) -> BadRow:
        """Return a row that could not be encoded, as one that could not be read is: without the dataset's name."""
        called = self._called(task)
        bad = BadRow.of(place.removeprefix(called), error)
        return dataclasses.replace(bad, message=bad.message.removeprefix(called))

    def _called(self, task: Task) -> str:
        return f"dataset `{self.sources[task.source].name}`, "


class _Gathered:
    """The samples of a task and what there is to say of them."""

    def __init__(self, sequence_length: int, seed: int, preferences: str | None) -> None:
        self._sequence_length = sequence_length
        self._seed = str(seed).encode()
        self._preferences = preferences
        self._samples: list[Sides] = []
        self._rows: list[tuple[int, int, bool, bool]] = []
        """Of each sample: its row's digest, how often it is used, whether it is the row's first, and its label."""
        self._counts = dict.fromkeys(("used", "left_out", "longest", "cut_at_turns", "per_turn", "control_texts"), 0)
        self.asked: list[Conversation] = []
        """Conversations that have a sample."""

    def add(self, times: int, conversation: Conversation, examples: Sequence[Example]) -> None:
        """Add the samples of a row that is used so many times: those that fit, or the pieces of a plain text."""
        longest = max(len(example.input_ids) for example in examples)
        if conversation.text is not None:
            examples = [piece for example in examples for piece in self._pieces(example)]
        samples: list[Sides] = [tuple(examples)] if conversation.rejected else [(example,) for example in examples]
        fit = [sides for sides in samples if all(len(side.input_ids) <= self._sequence_length for side in sides)]
        self._samples += fit
        digest = self._digest(fit)
        self._rows += [(digest, times, sample == 0, bool(conversation.desirable)) for sample in range(len(fit))]
        counts = self._counts
        counts["used"] += times
        counts["left_out"] += len(samples) - len(fit)
        counts["longest"] = max(counts["longest"], longest)
        counts["cut_at_turns"] += sum(any(side.cut_at_turns for side in sides) for sides in fit)
        counts["per_turn"] += examples[0].per_turn and not self._preferences
        counts["control_texts"] += any(example.control_text for example in examples)
        if fit and conversation.messages:
            self.asked.append(conversation)

    def _digest(self, samples: Sequence[Sides]) -> int:
        """Return what equal rows, and no others, have in common: by the tokens that they became.

        Rows that say what people prefer are equal if they have the same prompt: they are about the same question, so
        whoever is measured with one must not have been trained on another.
        """
        digest = hashlib.blake2b(key=self._seed, digest_size=8)
        for sample, *_ in samples:
            ids = sample.input_ids
            digest.update((ids[: np.argmax(sample.labels != IGNORED)] if self._preferences else ids).tobytes())
        return int.from_bytes(digest.digest(), "little")

    def _pieces(self, example: Example) -> Iterator[Example]:
        """Yield a plain text in pieces of the allowed length; one of a single token has nothing to predict."""
        for start in range(0, len(example.input_ids), self._sequence_length):
            part = slice(start, start + self._sequence_length)
            if len(example.input_ids[part]) > 1:
                yield dataclasses.replace(example, input_ids=example.input_ids[part], labels=example.labels[part])

    def portion(
        self, task: Task, bad: tuple[BadRow, ...], prompts: tuple[Mapping[str, Any], ...], held_out: bool
    ) -> Portion:
        """Return all as arrays."""
        samples = np.zeros(len(self._samples), SAMPLE)
        if self._samples:
            samples["row"], samples["times"], samples["first"], samples["desirable"] = zip(*self._rows, strict=True)
        samples["held_out"] = held_out
        flat = _flat([sides[0] for sides in self._samples])
        samples["length"], samples["labelled"] = flat.lengths, _labelled(flat)
        rejected = _flat([sides[1] for sides in self._samples]) if self._preferences == PAIRS else None
        if rejected is not None:
            samples["rejected"] = rejected.lengths
            samples["labelled"] += _labelled(rejected)
        return Portion(
            source=task.source,
            read=len(task.batch),
            flat=flat,
            rejected=rejected,
            labelled=self._preferences == LABELS,
            samples=samples,
            bad=bad,
            prompts=prompts,
            first=self._samples[0] if self._samples else (),
            **self._counts,
        )


def _flat(examples: Sequence[Example]) -> Flat:
    """Return samples one after the other."""
    lengths = np.array([len(example.input_ids) for example in examples], np.int32)
    labels = _joined([example.labels for example in examples])
    # Nothing comes before a sample's first token, so nothing predicts it. Within a packed row something would.
    labels[np.cumsum(lengths) - lengths] = IGNORED
    return Flat(_joined([example.input_ids for example in examples]), labels, lengths)


def _labelled(samples: Flat) -> Ints:
    """Return the number of each sample's tokens on which loss is taken."""
    if not len(samples.lengths):
        return np.zeros(0, np.int32)
    starts = np.cumsum(samples.lengths) - samples.lengths
    return np.add.reduceat(samples.labels != IGNORED, starts, dtype=np.int32)


def _joined(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int32), *arrays])
