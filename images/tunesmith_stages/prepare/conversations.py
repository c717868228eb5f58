"""Turns rows of the known formats into conversations: lists of messages with a role and a content.

Alpaca rows hold ``instruction``, ``input``, ``output``, ``system`` and ``history``; Messages rows hold OpenAI's
``messages``. A column mapping replaces these names.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.rows import Row
from tunesmith_stages.program import StageError

Message = dict[str, str]

_ALPACA_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}
_ROLES = ("system", "user", "assistant")
_OTHER_ROLES = ("tool", "function", "developer")
_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


@dataclass(frozen=True)
class Conversation:
    """What one row says, ready to be rendered."""

    place: str
    """Where people find the row."""
    messages: Sequence[Message]


@dataclass(frozen=True)
class Reader:
    """How the rows of one dataset are read."""

    format: str
    """``Alpaca`` or ``Messages``."""
    columns: Mapping[str, str]
    """Name of the column by what it holds."""
    substitutions: Mapping[str, str]

    def read(self, row: Row) -> Conversation:
        """Return the conversation of a row.

        Raises:
            StageError: the row lacks something or holds something of the wrong kind.
        """
        messages = self._alpaca(row) if self.format == "Alpaca" else self._messages(row)
        return Conversation(row.place, [{**item, "content": self._substitute(item["content"])} for item in messages])

    def _substitute(self, text: str) -> str:
        return _PLACEHOLDER.sub(lambda found: self.substitutions.get(found[1], found[0]), text)

    def _alpaca(self, row: Row) -> list[Message]:
        messages = []
        if system := self._text(row, "system", required=False):
            messages.append({"role": "system", "content": system})
        for turn in self._history(row):
            messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
        prompt = self._text(row, "prompt", required=True)
        query = self._text(row, "query", required=False)
        messages.append({"role": "user", "content": "\n".join(part for part in (prompt, query) if part)})
        messages.append({"role": "assistant", "content": self._text(row, "response", required=True)})
        return messages

    def _text(self, row: Row, column: str, *, required: bool) -> str:
        name = self.columns[column]
        value = row.data.get(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str):
            what = "is missing" if name not in row.data else f"must be a text, got {_shown(value)}"
            row.refuse(
                f"`{name}` {what}", hint=f"The row has {_listed(row.data)}; `columns.{column}` says which to use."
            )
        if required and not value.strip():
            row.refuse(f"`{name}` is empty", hint="Fill it in or remove the row.")
        return value

    def _history(self, row: Row) -> list[list[str]]:
        turns = row.data.get(self.columns["history"]) or []
        pairs = isinstance(turns, list) and all(
            isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) and text.strip() for text in turn)
            for turn in turns
        )
        if not pairs:
            row.refuse(f"`{self.columns['history']}` must be a list of [user, assistant] pairs of texts, none empty")
        return list(turns)

    def _messages(self, row: Row) -> list[Message]:
        name = self.columns["messages"]
        given = row.data.get(name)
        if not isinstance(given, list) or not given:
            row.refuse(f"`{name}` must be a list of messages, [{{role, content}}, ...]")
        messages = [_message(row, f"{name}[{index}]", item) for index, item in enumerate(given)]
        if messages[0]["role"] == "assistant":
            row.refuse(f"the first of `{name}` must not be from the assistant: there is nothing that it answers")
        if messages[-1]["role"] != "assistant":
            row.refuse(f"the last of `{name}` must be from the assistant, it is from the {messages[-1]['role']}")
        return messages


def _message(row: Row, place: str, item: object) -> Message:
    if not isinstance(item, dict):
        row.refuse(f"`{place}` must be an object with role and content, got {_shown(item)}")
    role, content = item.get("role"), item.get("content")
    if role in _OTHER_ROLES or item.get("tool_calls") or item.get("function_call"):
        what = f"is a {role} message" if role in _OTHER_ROLES else "holds a tool call"
        row.refuse(f"`{place}` {what}, which is not supported", hint="Leave such conversations out.")
    if role not in _ROLES:
        row.refuse(f"`{place}.role` must be one of {', '.join(_ROLES)}, got {role!r}")
    if not isinstance(content, str):
        row.refuse(f"`{place}.content` must be a text, got {_shown(content)}")
    if role == "assistant" and not content.strip():
        row.refuse(f"`{place}.content` is empty: there is nothing to learn from it")
    return {"role": role, "content": content}


def reader_for(dataset: Mapping[str, Any], rows: Sequence[Row]) -> Reader:
    """Return how to read a dataset, from its parameters, its first row, and the columns that any row has.

    Raises:
        StageError: no known format fits, or the columns that it needs are not there.
    """
    first = rows[0]
    mapping = {name: column for name, column in (dataset["columns"] or {}).items() if column}
    messages = mapping.get("messages", "messages")
    alpaca = {**_ALPACA_COLUMNS, **mapping}
    wanted: str = dataset["format"]
    if wanted == "Messages" or (wanted == "Auto" and ("messages" in mapping or messages in first.data)):
        needed = {"messages": messages}
        found = Reader("Messages", needed, dataset["substitutions"])
    else:
        needed = {name: alpaca[name] for name in ("prompt", "response")}
        found = Reader("Alpaca", alpaca, dataset["substitutions"])
    columns = {column for row in rows for column in row.data}
    missing = [column for column in needed.values() if column not in first.data]
    missing += [column for column in mapping.values() if column not in columns]
    if missing:
        raise StageError(
            ExitCode.BAD_DATA,
            f"dataset `{dataset['name']}` ({first.place}) has no column `{missing[0]}`; it has {_listed(first.data)}",
            reason="MissingColumn",
            hint=_how_to_map(first.data),
        )
    return found


def _how_to_map(data: Mapping[str, Any]) -> str:
    """Return what to do about a row that has not the columns of a known format."""
    talk = data.get("conversations")
    if isinstance(talk, list) and talk and isinstance(talk[0], dict) and "from" in talk[0]:
        return (
            "This looks like ShareGPT (from, value), which is not supported. Rename from to role (human to user, gpt "
            "to assistant) and value to content, and give `columns: {messages: conversations}`."
        )
    return (
        "Rows must be Alpaca (instruction, output) or Messages (messages, a list of role and content). Say which "
        "columns to use, such as `columns: {prompt: question, response: answer}` or `columns: {messages: talk}`."
    )


def sample(
    conversations: list[Conversation], cap: int | None, *, repeat: bool, seed: int, name: str
) -> list[Conversation]:
    """Return at most `cap` conversations in their order, drawn at random; `repeat` goes round until there are so many.

    The draw depends on `seed` and the dataset's name alone.
    """
    if cap is None or (cap >= len(conversations) and not repeat):
        return conversations
    whole, rest = divmod(cap, len(conversations))
    drawn = sorted(random.Random(f"{seed}/{name}").sample(range(len(conversations)), rest))  # noqa: S311 - not for secrets
    return conversations * whole + [conversations[index] for index in drawn]


def _shown(value: object) -> str:
    """Return a value as the file writes it, cut to a length that a message bears."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _listed(data: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in data) or "no columns"
