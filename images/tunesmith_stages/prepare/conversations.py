"""What one row says: a conversation, or a plain text; and how parts of a row are looked at by all formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tunesmith_stages.prepare.json_text import load_json
from tunesmith_stages.prepare.row import Row

Message = dict[str, Any]
"""`role` (system, user, assistant, tool) and `content`, a text. An assistant's may have `tool_calls`, in OpenAI's form
with `arguments` as an object; a tool's may have `name` and `tool_call_id`."""


@dataclass(frozen=True)
class Conversation:
    """What one row says, ready to be rendered."""

    place: str
    """Where people find the row."""
    messages: Sequence[Message]
    """Empty for a plain text."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """What the assistant may call: a list of ``{type: function, function: {name, description, parameters}}``."""
    text: str | None = None
    """A plain text, which is learnt whole, without a template."""
    ignored: frozenset[int] = frozenset()
    """Which of the messages, by index, are the assistant's but not learnt."""
    rejected: Conversation | None = None
    """Of a pair: the same with the worse answer at its end."""
    desirable: bool | None = None
    """Of a row with a label: whether its last answer is one to give."""

    @property
    def sides(self) -> tuple[Conversation, ...]:
        """What becomes samples: this conversation, and of a pair the one with the worse answer behind it."""
        return (self,) if self.rejected is None else (self, self.rejected)

    def at(self, place: str) -> Conversation:
        """Return the same with other words for where people find the row."""
        rejected = None if self.rejected is None else self.rejected.at(place)
        return replace(self, place=place, rejected=rejected)


class Shape(Protocol):
    """What makes a conversation of a row."""

    def read(self, row: Row) -> Conversation:
        """Return the conversation, or raise a StageError about the row."""


def shown(value: object) -> str:
    """Return a value as the file writes it, cut to a length that a message bears."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."


def listed(names: Mapping[str, Any]) -> str:
    """Return the names of columns for people."""
    return ", ".join(f"`{name}`" for name in names) or "no columns"


def required_text(row: Row, column: str, key: str) -> str:
    """Return the text in a column, which must not be blank; `key` is what `columns` of the job calls it.

    Raises:
        StageError: it is missing, no text, or blank.
    """
    value = _text(row, column, key)
    if not value.strip():
        row.refuse(f"`{column}` is empty", hint="Fill it in or remove the row.")
    return value


def optional_text(row: Row, column: str | None, key: str) -> str:
    """Return the text in a column; nothing if it is null, missing, or not asked for (None).

    Raises:
        StageError: it is no text.
    """
    if column is None or row.data.get(column) is None:
        return ""
    return _text(row, column, key)


def opened(row: Row, place: str, value: object) -> object:
    """Return what a text holds as JSON, as CSV and many datasets write lists and objects; any other value as it is.

    Raises:
        StageError: it begins as a list or an object does, and is no JSON.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return load_json(value)
    except ValueError as error:
        row.refuse(f"`{place}` is a text that is not JSON: {error}; it begins with {shown(value)}")


def _text(row: Row, column: str, key: str) -> str:
    value = row.data.get(column)
    if not isinstance(value, str):
        what = "is missing" if column not in row.data else f"must be a text, got {shown(value)}"
        row.refuse(f"`{column}` {what}", hint=f"The row has {listed(row.data)}; `columns.{key}` says which to use.")
    return value
