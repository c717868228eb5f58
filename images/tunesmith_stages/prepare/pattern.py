"""What a template writes between the messages of an ordinary conversation: learnt once, so that rows cost less.

Most templates write fixed text between messages and take the words as they are, or without the blanks around them. Then
the turns of a long conversation follow from its one rendering, instead of two renderings for each answer. It is never
assumed: the whole text of every row must be what the pattern says, to the letter, or the row goes the long way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from tunesmith_stages.prepare.chat import ChatTemplate
from tunesmith_stages.prepare.conversations import Message

Words = Callable[[str], str]
_PLACES = tuple(f"\ue000Ab{number}\ue001" for number in range(7))
"""Words of the private use area: in no template."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer stands in a rendered text, by characters."""

    start: int
    """Where the model begins to write."""
    words_end: int
    end: int
    """Where the next message begins, or the text ends."""


@dataclass(frozen=True)
class Pattern:
    """The fixed texts of a template, for conversations in which user and assistant speak by turns."""

    head: str
    """Before the user's first words."""
    head_with_system: tuple[str, str] | None
    """The same where a system message comes first: before its words, and behind them. None: it takes none."""
    prompt: str
    """From the user's words to where the model begins to write."""
    first: str
    """What the model writes before its words, such as a blank."""
    last: str
    """From the assistant's words to the end of the turn."""
    between: str
    """From the end of an answer's turn to the user's next words."""
    words: tuple[Words, Words, Words]
    """What becomes of the words of system, user and assistant."""

    def places(self, messages: Sequence[Message], text: str) -> list[Place] | None:
        """Return where the answers are in the text of a conversation, or None if the pattern does not fit it."""
        if not _is_ordinary(messages):
            return None
        of_system, of_user, of_assistant = self.words
        parts: list[str] = [self.head]
        if messages[0]["role"] == "system":
            if self.head_with_system is None:
                return None
            before, behind = self.head_with_system
            parts = [before, of_system(messages[0]["content"]), behind]
        at = sum(map(len, parts))
        found: list[Place] = []
        for message in messages[len(messages) % 2 :]:
            if message["role"] == "user":
                more = [of_user(message["content"]), self.prompt]
                at += len(more[0]) + len(self.prompt)
            else:
                words = of_assistant(message["content"])
                more = [self.first, words, self.last, self.between]
                end = at + len(self.first) + len(words) + len(self.last)
                found.append(Place(at, at + len(self.first) + len(words.rstrip()), end))
                at = end + len(self.between)
            parts += more
        return found if "".join(parts[:-1]) == text else None


def _is_ordinary(messages: Sequence[Message]) -> bool:
    """Say whether a conversation is one that patterns are made for, and holds no thoughts."""
    first = len(messages) % 2
    if len(messages) < 2 or (first and messages[0]["role"] != "system"):
        return False
    return all(len(message) == 2 and "think>" not in message["content"] for message in messages) and all(
        message["role"] == ("user", "assistant")[index % 2] for index, message in enumerate(messages[first:])
    )


def learn_pattern(template: ChatTemplate) -> Pattern | None:
    """Return the pattern of a template, or None if it has none."""
    try:
        return _learnt(template)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError):
        return None


def _learnt(template: ChatTemplate) -> Pattern | None:
    talk = _talk(_PLACES[1:])
    pieces = _pieces(template.render(talk), _PLACES[1:])
    if pieces is None:
        return None
    head, to_answer, to_user, *rest, tail = pieces
    asked = template.render(talk[:-1], ask=True).partition(_PLACES[5])[2]
    repeats = rest == [to_answer, to_user, to_answer]
    if not (
        repeats and to_answer.startswith(asked) and to_user.startswith(tail) and not to_answer[len(asked) :].strip()
    ):
        return None
    with_system: tuple[str, str] | None = None
    try:
        system = _pieces(template.render([{"role": "system", "content": _PLACES[0]}, *talk]), _PLACES)
    except jinja2.TemplateError:
        system = None
    if system is not None and system[2:] == pieces[1:]:
        with_system = system[0], system[1]
    return _with_words(template, head, with_system, (asked, to_answer[len(asked) :], tail, to_user[len(tail) :]))


def _with_words(
    template: ChatTemplate, head: str, with_system: tuple[str, str] | None, fixed: tuple[str, str, str, str]
) -> Pattern | None:
    """Return the pattern with what becomes of words that have blanks around them, and of short conversations."""
    first = 0 if with_system else 1
    talk = [
        *([{"role": "system", "content": f" \n{_PLACES[0]}\n "}] if with_system else []),
        *_talk(_PLACES[1:], " \n"),
    ]
    text = template.render(talk)
    kinds: tuple[Words, Words] = (_unchanged, str.strip)
    for words in itertools.product(kinds, kinds, kinds):
        pattern = Pattern(head, with_system, *fixed, words)
        if pattern.places(talk, text) is None:
            continue
        shorter = (talk[: 3 - first], talk[: 5 - first])
        return pattern if all(pattern.places(part, template.render(part)) for part in shorter) else None
    return None


def _unchanged(words: str) -> str:
    return words


def _talk(words: Sequence[str], blanks: str = "") -> list[dict[str, Any]]:
    return [
        {"role": ("user", "assistant")[index % 2], "content": f"{blanks}{word}{blanks[::-1]}"}
        for index, word in enumerate(words)
    ]


def _pieces(text: str, places: Sequence[str]) -> list[str] | None:
    """Return what stands between the places, or None if they are not there once each, in their order."""
    pieces = []
    for place in places:
        before, found, text = text.partition(place)
        if not found or any(other in before for other in places):
            return None
        pieces.append(before)
    return None if any(place in text for place in places) else [*pieces, text]
