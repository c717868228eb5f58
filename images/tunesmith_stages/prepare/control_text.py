"""Text in a conversation that reads like a control token, such as ``<|im_end|>`` in a question about chat templates.

In training it stays text: tokenized as such, it never becomes a control token, so nobody's words can end a turn. The
template is rendered once more with such text between marks, which shows where it stands in the result. (A server that
is asked with such text does take it for control tokens; no GGUF can forbid that.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunesmith_stages.prepare.chat import Span
from tunesmith_stages.prepare.conversations import Message

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Noncharacters: Unicode gives them no meaning in any text."""
_THOUGHTS = frozenset({"<think>", "</think>"})
"""What an answer says with these is what the tokens say."""


class ControlText:
    """Finds the text of control tokens in what people wrote.

    Args:
        tokens: text of the tokenizer's control tokens.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        every = frozenset(tokens)
        self._any = _one_of(every)
        self._in_answers = _one_of(every - _THOUGHTS)

    def spans(self, text: str) -> list[Span]:
        """Return the places of control tokens' text in plain text."""
        return [found.span() for found in self._in_answers.finditer(text)]

    def is_in(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> bool:
        """Say whether a conversation holds such text."""
        return any(_holds(message, self._of(message)) for message in messages) or _holds(tools, self._any)

    def marked(self, messages: Sequence[Message]) -> list[Message]:
        """Return messages in which such text stands between marks."""
        return [_marked(message, self._of(message)) for message in messages]

    def marked_tools(self, tools: Sequence[Any] | None) -> Sequence[Any] | None:
        """Return the same of descriptions of functions."""
        marked: Sequence[Any] | None = _marked(tools, self._any)
        return marked

    def _of(self, message: Message) -> re.Pattern[str]:
        return self._in_answers if message["role"] == "assistant" else self._any


def _one_of(tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _holds(value: Any, tokens: re.Pattern[str]) -> bool:
    if isinstance(value, str):
        return tokens.search(value) is not None
    if isinstance(value, Mapping):
        return any(_holds(name, tokens) or _holds(item, tokens) for name, item in value.items())
    return isinstance(value, list | tuple) and any(_holds(item, tokens) for item in value)


def _marked(value: Any, tokens: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return tokens.sub(f"{_OPEN}\\g<0>{_CLOSE}", value)
    if isinstance(value, Mapping):
        return {_marked(name, tokens): _marked(item, tokens) for name, item in value.items()}
    return [_marked(item, tokens) for item in value] if isinstance(value, list | tuple) else value


def places_of_marks(marked: str, text: str) -> Sequence[Span] | None:
    """Return the marked places as places in `text`; None if `text` is not `marked` without its marks."""
    places: list[Span] = []
    length = 0
    start = -1
    for part in re.split(f"([{_OPEN}{_CLOSE}])", marked):
        if part == _OPEN:
            start = length
        elif part == _CLOSE:
            if start < 0:
                return None
            places.append((start, length))
            start = -1
        else:
            if text[length : length + len(part)] != part:
                return None
            length += len(part)
    return places if start < 0 and length == len(text) else None
