"""Reads rows that say which answers people prefer: pairs of a chosen and a rejected one, or one with a label.

Both can be in any format of conversations: a pair is read as two of them, with an answer each. What is learnt, for or
against, is the last answer alone; earlier ones belong to the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from tunesmith_stages.prepare.conversations import Conversation, Message, Shape, listed, required_text, shown
from tunesmith_stages.prepare.row import Row

PAIRS, LABELS = "Pairs", "Labels"
"""What rows must be made of for DPO and ORPO, and for KTO: `preferences` of the stage's parameters."""
NEEDED = {
    PAIRS: "DPO and ORPO need a better and a worse answer to each prompt, such as `chosen` and `rejected`",
    LABELS: "KTO needs answers to prompts and of each whether it is desirable, such as `kto_tag` or `label`",
}

_LEAVE_OUT = "Correct the row, or leave such rows out (`onBadRow: Skip`)."


@dataclass(frozen=True)
class Pairs:
    """How rows with two answers to one prompt are read."""

    chosen: Shape
    """Reads the prompt with the better answer."""
    rejected: Shape
    """Reads the prompt with the worse one."""
    answers: tuple[str, str]
    """The columns of the two."""
    are_texts: bool = False
    """Whether the answers are texts, and nothing else."""

    def read(self, row: Row) -> Conversation:
        """Return the conversation with the chosen answer, and in it the one with the rejected answer.

        Raises:
            StageError: the row lacks something or holds something of the wrong kind, its answers are the same, or they
                do not answer the same prompt.
        """
        for key, column in zip(("chosen", "rejected"), self.answers, strict=True):
            if self.are_texts or row.data.get(column) in (None, "", [], {}):
                required_text(row, column, key)
        first, second = self.answers
        chosen = _about_the_last(row, f"`{first}`", self.chosen.read(row))
        rejected = _about_the_last(row, f"`{second}`", self.rejected.read(row))
        different = _first_difference(chosen.messages, rejected.messages)
        if different is None:
            row.refuse(f"`{first}` and `{second}` are the same answer: neither is better", hint=_LEAVE_OUT)
        if different + 1 < max(len(chosen.messages), len(rejected.messages)):
            row.refuse(
                f"`{first}` and `{second}` must answer the same prompt: the conversations may differ in their last "
                f"answer alone, and they do in message {different + 1}",
                hint=_LEAVE_OUT,
            )
        return replace(chosen, rejected=rejected)


def _first_difference(first: Sequence[Message], second: Sequence[Message]) -> int | None:
    """Return the index of the first message in which two conversations differ."""
    pairs = enumerate(zip_longest(first, second))
    return next((index for index, (one, other) in pairs if one != other), None)


@dataclass(frozen=True)
class Labelled:
    """How rows with one answer and a label are read."""

    shape: Shape
    """Reads the conversation."""
    label: str
    """Column that says whether the answer is one to give."""

    def read(self, row: Row) -> Conversation:
        """Return the conversation of a row, with its label.

        Raises:
            StageError: the row lacks something or holds something of the wrong kind.
        """
        conversation = _about_the_last(row, "the row", self.shape.read(row))
        return replace(conversation, desirable=self._desirable(row))

    def _desirable(self, row: Row) -> bool:
        """Return the label; CSV has it as a text."""
        value = row.data.get(self.label)
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.strip().lower(), value)
        if not isinstance(value, bool):
            what = f"must be true or false, got {shown(value)}" if self.label in row.data else "is missing"
            hint = f"It says whether the answer is one to give. The row has {listed(row.data)}; `columns.desirable` "
            row.refuse(f"`{self.label}` {what}", hint=f"{hint}says which to use.")
        return value


def _about_the_last(row: Row, where: str, conversation: Conversation) -> Conversation:
    """Return a conversation of which the last answer alone is learnt."""
    last = len(conversation.messages) - 1
    if last in conversation.ignored:
        row.refuse(f"the last answer of {where} has the weight 0, and it is the one to learn from", hint=_LEAVE_OUT)
    earlier = (index for index in range(last) if conversation.messages[index]["role"] == "assistant")
    return replace(conversation, ignored=frozenset(earlier))
