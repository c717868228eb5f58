"""Reads lists of messages: OpenAI's (role, content), and ShareGPT's (from, value) with the words that each set uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith_stages.prepare.content import content_of
from tunesmith_stages.prepare.conversations import Conversation, Message, opened, optional_text, shown
from tunesmith_stages.prepare.json_text import load_json
from tunesmith_stages.prepare.row import Row
from tunesmith_stages.prepare.tool_calls import calls_in_text, calls_of, tools_of

_CALL = "call"
"""The role of a message that is a call of a tool; it becomes one of the assistant."""

OPENAI_ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""What each word for a role means in OpenAI's messages."""

SHAREGPT_WORDS: Mapping[str, tuple[str, ...]] = {
    "user": ("human", "user"),
    "assistant": ("gpt", "assistant", "chatgpt"),
    "observation": ("observation", "tool"),
    "function": ("function_call",),
    "system": ("system",),
}
"""By tag, the words that ShareGPT's kind of datasets use for a role."""

_ROLE_OF_TAG = {
    "user": "user",
    "assistant": "assistant",
    "observation": "tool",
    "function": _CALL,
    "system": "system",
}

KEYS = (("from", "value"), ("role", "content"))
"""The keys of role and content, the first that a message has."""


@dataclass(frozen=True)
class Turns:
    """How rows with a list of messages are read."""

    column: str
    tools: str | None = None
    functions: str | None = None
    """OpenAI's older column for the tools, for rows that have none in `tools`."""
    system: str | None = None
    """Column of a system message, for conversations that do not begin with one."""
    answer: str | None = None
    """Column of the answer, where the messages end before it: a text, a message, or a list of messages."""
    keys: tuple[tuple[str, str], ...] = (("role", "content"),)
    roles: Mapping[str, str] = field(default_factory=lambda: OPENAI_ROLES)

    def read(self, row: Row) -> Conversation:
        """Return the conversation of a row.

        Raises:
            StageError: the row cannot be learnt from.
        """
        messages, ignored = self.messages(row, self.column)
        if self.answer is not None:
            messages, ignored = self._answered(row, self.answer, messages)
        system = optional_text(row, self.system, "system")
        if system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
            ignored = {index + 1 for index in ignored}
        require_answer(row, self.answer or self.column, messages, ignored)
        tools = tools_of(row, self.tools) or tools_of(row, self.functions)
        return Conversation(row.place, messages, tools, ignored=frozenset(ignored))

    def messages(self, row: Row, column: str) -> tuple[list[Message], set[int]]:
        """Return the messages in a column, and which of the assistant's are not to be learnt.

        Raises:
            StageError: there are none, or one of them is none.
        """
        given = opened(row, column, row.data.get(column))
        if not isinstance(given, list) or not given:
            keys = ", ".join(self.keys[0])
            row.refuse(f"`{column}` must be a list of messages, [{{{keys}}}, ...], got {shown(given)}")
        messages, ignored = [], set()
        for index, item in enumerate(given):
            message, learnt = self._message(row, f"{column}[{index}]", item)
            messages.append(message)
            if not learnt:
                ignored.add(index)
        return messages, ignored

    def _answered(self, row: Row, column: str, asked: list[Message]) -> tuple[list[Message], set[int]]:
        """Return messages with the answer to them, and which of the answer's are not to be learnt."""
        if asked[-1]["role"] == "assistant":
            row.refuse(f"`{self.column}` ends with an answer: there is nothing that `{column}` answers")
        value = messages_in(row.data.get(column), self.keys)
        if isinstance(value, str) and value.strip():
            return [*asked, {"role": "assistant", "content": value}], set()
        if isinstance(value, dict):
            message, learnt = self._message(row, column, value)
            answer, ignored = [message], set() if learnt else {0}
        elif isinstance(value, list) and value:
            answer, ignored = self.messages(row, column)
        else:
            row.refuse(f"`{column}` must be a text, a message or a list of messages, got {shown(value)}")
        if answer[0]["role"] != "assistant":
            role = answer[0]["role"]
            row.refuse(f"`{column}` must be from the assistant, who answers `{self.column}`; it is from the {role}")
        return [*asked, *answer], {len(asked) + index for index in ignored}

    def _message(self, row: Row, place: str, item: object) -> tuple[Message, bool]:
        if not isinstance(item, dict):
            row.refuse(f"`{place}` must be an object with {' and '.join(self.keys[0])}, got {shown(item)}")
        role_key, content_key = next((keys for keys in self.keys if keys[0] in item), self.keys[0])
        word = item.get(role_key)
        role = self.roles.get(word) if isinstance(word, str) else None
        if role is None:
            allowed = ", ".join(dict.fromkeys(self.roles))
            row.refuse(f"`{place}.{role_key}` must be one of {allowed}, got {word!r}", hint=_WORDS)
        text = content_of(row, f"{place}.{content_key}", item.get(content_key), item)
        if role == _CALL:
            before, calls = calls_in_text(row, f"{place}.{content_key}", text.text)
            return {"role": "assistant", "content": before, "tool_calls": calls}, True
        message: Message = {"role": role, "content": text.text}
        if role == "assistant":
            _add_calls(row, place, content_key, message, [*text.calls, *calls_of(row, place, item)])
            return message, _is_learnt(row, place, item)
        if role == "tool":
            message.update({key: item[key] for key in ("name", "tool_call_id") if isinstance(item.get(key), str)})
        return message, True


_WORDS = "`tags` says what a dataset calls its roles: `tags: {user: ..., assistant: ...}`."


def sharegpt_roles(tags: Mapping[str, str]) -> dict[str, str]:
    """Return what each word for a role means; `tags` name the one word for a role, where it is not a usual one."""
    words = {tag: (tags[tag],) if tag in tags else SHAREGPT_WORDS[tag] for tag in _ROLE_OF_TAG}
    return {word: _ROLE_OF_TAG[tag] for tag in words for word in words[tag]}


def sharegpt_keys(tags: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the keys of role and content that are looked for."""
    if "role" not in tags and "content" not in tags:
        return KEYS
    role = tags.get("role", "from" if tags.get("content") == "value" else "role")
    return ((role, tags.get("content", dict(KEYS).get(role, "content"))),)


def _add_calls(row: Row, place: str, content_key: str, message: Message, calls: Sequence[Mapping[str, Any]]) -> None:
    if calls:
        message["tool_calls"] = list(calls)
    elif not message["content"].strip():
        row.refuse(f"`{place}.{content_key}` is empty: there is nothing to learn from it")


def _is_learnt(row: Row, place: str, item: Mapping[str, Any]) -> bool:
    """Return whether an answer counts: OpenAI's `weight`, or LLaMA-Factory's `loss_weight`."""
    for key in ("weight", "loss_weight"):
        weight = item.get(key)
        if weight is not None and weight not in (0, 1):
            row.refuse(f"`{place}.{key}` must be 0 or 1, got {shown(weight)}")
        if weight == 0 and weight is not None:
            return False
    return True


def messages_in(value: object, keys: Sequence[tuple[str, str]]) -> object:
    """Return a message or a list of them that CSV has as a text of JSON; any other value, and any other text, as it is.

    An answer may be written in JSON: it stays a text.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        found = load_json(value)
    except ValueError:
        return value
    first = found[0] if isinstance(found, list) and found else found
    is_message = isinstance(first, dict) and any(role in first and content in first for role, content in keys)
    return found if is_message else value


def require_answer(row: Row, column: str, messages: Sequence[Message], ignored: set[int]) -> None:
    """Refuse a conversation in which there is no answer to learn, or no question before it."""
    if messages[0]["role"] == "assistant":
        row.refuse(f"the first of `{column}` must not be from the assistant: there is nothing that it answers")
    if messages[-1]["role"] != "assistant":
        row.refuse(f"the last of `{column}` must be from the assistant, it is from the {messages[-1]['role']}")
    if not any(message["role"] == "assistant" and index not in ignored for index, message in enumerate(messages)):
        row.refuse(f"`{column}` has no answer to learn: all have the weight 0")
