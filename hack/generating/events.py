"""The table of the Events that the operator tells, from what it does.

What changes of a status are told is asked of :func:`tunesmith.core.conditions.notes` itself; what is told elsewhere is
found in the source.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from generating.sections import with_section

import tunesmith
from tunesmith.api.status import State
from tunesmith.core.conditions import Note, notes
from tunesmith_stages.contract import StageName
from tunesmith_stages.reasons import REASONS

_ANY = "AnyOther"
"""A reason that nobody knows."""
_DONE = ("Succeeded", "DryRunSucceeded")
_WHEN: Mapping[str, str] = {
    "RemovingModels": "It is being deleted with `deletionPolicy: Delete`; a Job begins to remove its models.",
    "ModelsRemoved": "They are removed; the sentence says what was not there any more, or is somebody else's by now.",
    "ModelsLeftBehind": "It goes away, and models may still be in Ollama; the sentence says which, where and why.",
}
"""What is told by other parts of the operator than `notes`."""


def with_table_of_events(page: str) -> str:
    """Return `page` with the table of Events."""
    lines = ["| type | reason | when |", "|---|---|---|"]
    lines += [f"| {kind} | {reason} | {when} |" for kind, reason, when in events()]
    return with_section(page, "events", "\n".join(lines))


def events() -> Iterator[tuple[str, str, str]]:
    """Yield type, reasons and occasion of every Event.

    Raises:
        ValueError: the operator tells one for which there are no words here.
    """
    yield _of_stages(State.PENDING, "A Job of the stage is created; the sentence has its name and counts the attempts.")
    yield _of_stages(State.SUCCEEDED, "The stage's result is there, made just now or found on the volume.")
    (failed,) = notes({}, _stage(StageName.FETCH, State.FAILED))
    (again,) = notes({}, _stage(StageName.FETCH, State.WAITING))
    if (failed.type, failed.reason) != (again.type, again.reason):
        raise ValueError("a stage that failed is told otherwise than one that is tried again: a row for each is needed")
    yield (
        failed.type,
        "that of the failure",
        "A stage failed, or was ended from outside, whether it is tried again or not.",
    )
    ready = {name: note for name in (*REASONS, _ANY) for note in notes({}, _ready(name))}
    (end,) = {ready[name].type for name in _DONE}
    yield end, _quoted(_DONE), "It is done."
    calm = [name for name, note in ready.items() if note.type == "Normal" and name not in _DONE]
    yield "Normal", _quoted(calm), "It waits, and that is nobody's fault."
    yield (
        ready[_ANY].type,
        "any other STATUS but `Pending`",
        "It waits for something that is missing, or it is `Stalled`.",
    )
    for kind, reason in _told_elsewhere():
        if reason not in _WHEN:
            raise ValueError(f"hack/generating/events.py has no words for the Event {reason}")
        yield kind, f"`{reason}`", _WHEN[reason]


def _of_stages(state: State, when: str) -> tuple[str, str, str]:
    told = [note for stage in StageName for note in notes({}, _stage(stage, state))]
    (kind,) = {note.type for note in told}
    return kind, _quoted([note.reason for note in told]), when


def _stage(stage: StageName, state: State) -> dict[str, Any]:
    return {"stages": [{"name": stage, "state": state, "job": "job", "attempts": 1, "reason": _ANY}]}


def _ready(reason: str) -> dict[str, Any]:
    status = "True" if reason in _DONE else "False"
    return {"conditions": [{"type": "Ready", "status": status, "reason": reason}]}


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _told_elsewhere() -> Iterator[tuple[str, str]]:
    """Yield type and reason of each Event that the source of the operator names outside of `notes`."""
    root = Path(tunesmith.__path__[0])
    for file in sorted(root.rglob("*.py")):
        module = ".".join(["tunesmith", *file.relative_to(root).with_suffix("").parts])
        if module == notes.__module__:
            continue
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in sorted(calls, key=lambda call: call.lineno):
            if isinstance(call.func, ast.Name) and call.func.id == Note.__name__:
                yield _constant(module, call.args[0]), _constant(module, call.args[1])


def _constant(module: str, node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return str(getattr(importlib.import_module(module), node.id))
    return str(ast.literal_eval(node))
