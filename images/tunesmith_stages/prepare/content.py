"""Reads the content of a message: a text, or parts that are joined to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.prepare.conversations import shown
from tunesmith_stages.prepare.row import Row
from tunesmith_stages.prepare.tool_calls import Call, call_of

_MEDIA = ("image", "video", "audio", "file")
_THOUGHTS = ("reasoning", "thinking")
"""Other keys of a message's thoughts, if there is a text."""
MEDIA_HINT = "Only text is trained on. Leave such rows out (`onBadRow: Skip` does), or use another dataset."


@dataclass(frozen=True)
class Content:
    """What a message says."""

    text: str
    calls: tuple[Call, ...] = ()


def content_of(row: Row, place: str, value: object, message: Mapping[str, Any]) -> Content:
    """Return the content of a message, with the thoughts that come before it.

    Thoughts are given as `reasoning_content` of the message (others call it `reasoning` or `thinking`) or as parts of
    the type ``reasoning``. They are written between ``<think>`` and ``</think>``, as LLaMA-Factory's data has it and
    as templates of thinking models read it.

    Raises:
        StageError: it is no text and has no parts, or one of the parts is no text.
    """
    thoughts = message.get("reasoning_content")
    if thoughts is not None and not isinstance(thoughts, str):
        row.refuse(f"`reasoning_content` of the message at `{place}` must be a text, got {shown(thoughts)}")
    thoughts = thoughts or next((message[key] for key in _THOUGHTS if isinstance(message.get(key), str)), "")
    if value is None and (message.get("tool_calls") or message.get("function_call")):
        return Content(_with_thoughts(thoughts, ""))
    if isinstance(value, str):
        return Content(_with_thoughts(thoughts, value))
    if not isinstance(value, list):
        row.refuse(f"`{place}` must be a text, got {shown(value)}")
    texts, calls = [], []
    for index, part in enumerate(value):
        kind, content = _part(row, f"{place}[{index}]", part)
        if kind == "reasoning":
            thoughts += str(content)
        elif kind == "tool_call":
            calls.append(call_of(row, f"{place}[{index}]", content))
        else:
            texts.append(str(content))
    return Content(_with_thoughts(thoughts, "".join(texts)), tuple(calls))


def _with_thoughts(thoughts: str, text: str) -> str:
    return f"<think>\n{thoughts.strip()}\n</think>\n\n{text}" if thoughts.strip() else text


def _part(row: Row, place: str, part: object) -> tuple[str, object]:
    """Return type and content of a part; OpenAI names the content as the type, LLaMA-Factory calls it `value`."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        row.refuse(f"`{place}` must be a part of a message, {{type: text, text: ...}}, got {shown(part)}")
    kind = part["type"]
    if any(word in kind for word in _MEDIA):
        row.refuse(f"`{place}` is media (`{kind}`), which cannot be trained on", hint=MEDIA_HINT, reason="MediaData")
    if kind not in {"text", "reasoning", "tool_call"}:
        row.refuse(f"`{place}.type` must be text, got {kind!r}")
    content = part.get(kind, part.get("value"))
    if kind != "tool_call" and not isinstance(content, str):
        row.refuse(f"`{place}.{kind}` must be a text, got {shown(content)}")
    return kind, content
