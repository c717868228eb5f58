"""The formats of rows, and by which signs each of them is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.alpaca import Alpaca, PromptCompletion, Text
from tunesmith_stages.prepare.conversations import Shape
from tunesmith_stages.prepare.dataset_info import FILE, Entry
from tunesmith_stages.prepare.preferences import LABELS, PAIRS
from tunesmith_stages.prepare.turns import Turns, sharegpt_keys, sharegpt_roles
from tunesmith_stages.program import StageError

PREFERENCE_DATA = "preference data"
ANSWERS = (("chosen", "rejected"), ("chosen_messages", "rejected_messages"))
"""Columns that hold the better and the worse answer."""
TALKS = ("conversations", "conversation", "messages")
"""Columns that hold lists of messages; ShareGPT's own name is the first."""


@dataclass(frozen=True)
class Recognised:
    """The format of a dataset's rows."""

    format: str
    why: str
    shape: Shape
    needed: tuple[str, ...]
    """Columns that the first row must have."""
    named: tuple[str, ...] = ()
    """Columns that some row must have, because somebody named them."""
    num_samples: int | None = None
    """How many rows are asked for, where somebody asks."""
    prefers: tuple[str, ...] = ()
    """Those of the needed columns that say which answers people prefer."""

    def columns(self) -> set[str]:
        """Return the names of all columns that rows are read from."""
        return _columns_of(self.shape)


def _columns_of(shape: Shape) -> set[str]:
    """Return the texts among the fields of a shape and of the shapes in it: they are columns, and nothing else."""
    values = list(vars(shape).values())
    inner = [_columns_of(value) for value in values if hasattr(value, "read")]
    return {value for value in values if isinstance(value, str) and value}.union(*inner)


def looks_like(data: Mapping[str, Any]) -> str:
    """Return the format that a row's columns are known for; nothing if it is none."""
    return PREFERENCE_DATA if preferences_in(data) else known_format(data)


def known_format(data: Mapping[str, Any]) -> str:
    """Return the same of a row with one answer, whatever else it has."""
    if "messages" in data:
        return "ShareGPT" if is_sharegpt(data["messages"]) else "Messages"
    if any(name in data for name in TALKS):
        return "ShareGPT"
    if {"instruction", "output"} <= data.keys():
        return "Alpaca"
    if {"prompt", "completion"} <= data.keys():
        return "PromptCompletion"
    return "Text" if "text" in data else ""


def preferences_in(data: Mapping[str, Any]) -> str | None:
    """Return whether a row is a pair of answers or has a label, as its columns show; None if it shows neither."""
    if any({*names} <= data.keys() for names in ANSWERS):
        return PAIRS
    return LABELS if "kto_tag" in data else None


def is_sharegpt(value: object) -> bool:
    """Return whether a list of messages is written with `from`; CSV has it as a text of JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "from" in value[0]


# --- what the job says -----------------------------------------------------------------------------------------------


def recognise(wanted: str, columns: Mapping[str, str], tags: Mapping[str, str], first: Mapping[str, Any]) -> Recognised:
    """Return the format of rows of which one is known; `wanted` is ``Auto`` or the format.

    Args:
        wanted: `format` of the dataset.
        columns: names of columns, by what they hold, where the job gives them.
        tags: words for ShareGPT's keys and roles, where the job gives them.
        first: the columns of the first row.
    """
    name = wanted if wanted != "Auto" else _by_signs(columns, tags, first)
    why = "as `format` says" if wanted != "Auto" else "as `tags` says" if tags else ""
    if name == "Messages":
        column = columns.get("messages", "messages")
        shape: Shape = Turns(column, columns.get("tools", "tools"), None if "tools" in columns else "functions")
        return Recognised(name, why or talk(column, first), shape, (column,), tuple(columns.values()))
    if name == "ShareGPT":
        column = columns.get("messages") or next((name for name in TALKS if name in first), TALKS[0])
        shape = Turns(
            column,
            columns.get("tools", "tools"),
            system=columns.get("system", "system"),
            keys=sharegpt_keys(tags),
            roles=sharegpt_roles(tags),
        )
        return Recognised(name, why or talk(column, first), shape, (column,), tuple(columns.values()))
    if name == "PromptCompletion":
        prompt, completion = columns.get("prompt", "prompt"), columns.get("response", "completion")
        why = why or f"the rows have the columns `{prompt}` and `{completion}`"
        return Recognised(name, why, PromptCompletion(prompt, completion), (prompt, completion))
    if name == "Text":
        column = columns.get("text", "text")
        return Recognised(name, why or f"the rows have the column `{column}`", Text(column), (column,))
    alpaca = Alpaca(**columns)
    needed = (alpaca.prompt, alpaca.response)
    why = why or f"the rows have the columns `{alpaca.prompt}` and `{alpaca.response}`"
    return Recognised("Alpaca", why, alpaca, needed, tuple(columns.values()))


def _by_signs(columns: Mapping[str, str], tags: Mapping[str, str], first: Mapping[str, Any]) -> str:
    """Return the format that the job's columns and tags, or else the first row's columns, are the sign of."""
    if tags:
        return "ShareGPT"
    if "messages" in columns:
        return "ShareGPT" if "system" in columns or is_sharegpt(first.get(columns["messages"])) else "Messages"
    if "text" in columns:
        return "Text"
    alpaca = {"prompt": "instruction", "response": "output", **columns}
    other = {"prompt": "prompt", "response": "completion", **columns}
    if columns.keys() & {"prompt", "query", "response", "history"}:
        is_list = isinstance(first.get(other["prompt"]), list)
        is_other = other["prompt"] in first and other["response"] in first and alpaca["response"] not in first
        return "PromptCompletion" if is_list or is_other else "Alpaca"
    found = known_format(first) or "Alpaca"
    return "ShareGPT" if found == "Messages" and "system" in columns else found


def talk(column: str, first: Mapping[str, Any]) -> str:
    """Return by which sign a column is known to hold messages."""
    keys = "`from` and `value`" if is_sharegpt(first.get(column)) else "a role and a content"
    return f"`{column}` holds messages with {keys}"


# --- what an entry of dataset_info.json says -------------------------------------------------------------------------


def of_entry(entry: Entry) -> Recognised:
    """Return the format that an entry describes.

    Raises:
        StageError: it names no column to learn from, or is of media.
    """
    entry.require_text()
    why = f"as the entry `{entry.name}` of {FILE} says"
    if entry.unknown:
        why += f"; of its fields {', '.join(f'`{name}`' for name in entry.unknown)} are not known and not used"
    if entry.formatting == "alpaca":
        name, shape, needed = _alpaca_of(entry)
    else:
        name = "ShareGPT" if entry.formatting == "sharegpt" else "Messages"
        given = entry.columns or {}
        column = given.get("messages", "conversations")
        keys, roles = sharegpt_keys(entry.tags), sharegpt_roles(entry.tags)
        shape = Turns(column, given.get("tools"), system=given.get("system"), keys=keys, roles=roles)
        needed = (column,)
    if name == "Text":
        why += ": `columns` names a prompt and no response"
    return Recognised(name, why, shape, needed, tuple((entry.columns or {}).values()), entry.num_samples)


def _alpaca_of(entry: Entry) -> tuple[str, Shape, tuple[str, ...]]:
    """Return format, shape and needed columns of an entry of Alpaca's formatting."""
    columns = entry.columns
    if columns is None:
        return "Alpaca", Alpaca(system=None, history=None), ("instruction", "output")
    prompt, query, response = (columns.get(name) for name in ("prompt", "query", "response"))
    if prompt and not query and not response:
        return "Text", Text(prompt), (prompt,)
    first = prompt or query
    if not first or not response:
        message = f"{FILE}: entry `{entry.name}`: `columns` must name a `prompt` and a `response`"
        hint = "Name the columns that hold the question and the answer, or the `prompt` alone for plain texts."
        raise StageError(ExitCode.BAD_DATA, message, reason="BadDatasetInfo", hint=hint)
    others = {name: columns.get(name) for name in ("system", "history", "tools")}
    return "Alpaca", Alpaca(first, query if prompt else None, response, **others), (first, response)
