"""Reads tools and their calls, in all the ways in which datasets write them, into the form of OpenAI's API.

Chat templates expect a call's arguments as an object, so texts of JSON are opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tunesmith_stages.prepare.conversations import opened, shown
from tunesmith_stages.prepare.row import Row

Call = dict[str, Any]

_THOUGHTS = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


def tools_of(row: Row, column: str | None) -> list[Mapping[str, Any]] | None:
    """Return the tools that a row lists: functions, or objects of the type function; None if there are none.

    Raises:
        StageError: it is no list of tools.
    """
    given = opened(row, str(column), row.data.get(column)) if column is not None else None
    if not given or (isinstance(given, str) and not given.strip()):
        return None
    if not isinstance(given, list):
        row.refuse(f"`{column}` must be a list of tools, got {shown(given)}")
    return [_tool(row, f"{column}[{index}]", item) for index, item in enumerate(given)]


def _tool(row: Row, place: str, item: object) -> Mapping[str, Any]:
    item = opened(row, place, item)
    bare = isinstance(item, dict) and "function" not in item
    tool = {"type": "function", "function": item} if bare else item
    if not isinstance(tool, dict) or not isinstance(tool["function"], dict):
        row.refuse(f"`{place}` must be a tool, {{type: function, function: {{name, ...}}}}, got {shown(item)}")
    if not isinstance(tool["function"].get("name"), str):
        row.refuse(f"`{place}` has no `name`: {shown(item)}")
    return tool


def calls_in_text(row: Row, place: str, text: str) -> tuple[str, list[Call]]:
    """Return what a ShareGPT message of the role function_call holds: thoughts if there are any, and the calls.

    It is one call, ``{"name": ..., "arguments": {...}}``, or a list of them.

    Raises:
        StageError: it is something else.
    """
    thoughts = _THOUGHTS.match(text)
    before = thoughts[0] if thoughts else ""
    given = opened(row, place, text[len(before) :])
    calls = given if isinstance(given, list) else [given]
    if not calls:
        row.refuse(f"`{place}` holds no call")
    return before, [call_of(row, place, item) for item in calls]


def calls_of(row: Row, place: str, message: Mapping[str, Any]) -> list[Call]:
    """Return the calls of an OpenAI message: `tool_calls`, or the older `function_call`.

    Raises:
        StageError: they are something else.
    """
    given = opened(row, f"{place}.tool_calls", message.get("tool_calls")) or []
    if not isinstance(given, list):
        row.refuse(f"`{place}.tool_calls` must be a list of calls, got {shown(given)}")
    calls = [call_of(row, f"{place}.tool_calls[{index}]", item) for index, item in enumerate(given)]
    if older := message.get("function_call"):
        calls.append(call_of(row, f"{place}.function_call", older))
    return calls


def call_of(row: Row, place: str, item: object) -> Call:
    """Return one call, bare or as an object of the type function; it may be a text of JSON.

    Raises:
        StageError: it has no name, or its arguments are no object.
    """
    item = opened(row, place, item)
    inner = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"].strip():
        row.refuse(f"`{place}` must be a call of a tool, {{name, arguments}}, got {shown(item)}")
    arguments = opened(row, f"{place}.arguments", inner.get("arguments", inner.get("parameters")))
    if arguments is None or arguments == "":
        arguments = {}
    if not isinstance(arguments, dict):
        row.refuse(f"the arguments of `{place}` must be an object, got {shown(arguments)}")
    call: Call = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
    if isinstance(item, dict) and isinstance(item.get("id"), str):
        call["id"] = item["id"]
    return call
