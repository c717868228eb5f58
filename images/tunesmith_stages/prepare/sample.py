"""A rendered conversation, and where in it the assistant speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith_stages.prepare.chat import Span
from tunesmith_stages.prepare.conversations import Conversation


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the assistant in a rendered text, by character positions."""

    start: int
    """Where the model begins to write."""
    content_end: int
    """Where the assistant's own words end and the template goes on."""
    end: int
    """Where the next message begins, or the text ends."""
    learnt: bool = True
    calls: bool = False
    """Whether the assistant calls functions: the template writes that behind the words."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A sample as the model sees it: a conversation or its beginning, or plain text."""

    conversation: Conversation
    text: str
    turns: tuple[Turn, ...]
    """Empty for plain text, which is learnt as a whole."""
    marked: tuple[Span, ...] | None = None
    """Places that the template's ``{% generation %}`` blocks made, if it has any: what is learnt."""
    literal: Sequence[Span] = ()
    """Places of text that is no control token, though it reads like one."""
    per_turn: bool = False
    """Whether this is one of several samples of a conversation, one for each answer."""
