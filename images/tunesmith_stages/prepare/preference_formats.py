"""Recognises rows that say which answers people prefer: in which format they are, and which columns hold what.

But for the answers or the label they are rows like any other, so :mod:`.formats` says how the rest is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.dataset_info import FILE, LABELS_HINT, PAIRS_HINT, SINGLE_HINT, Entry
from tunesmith_stages.prepare.formats import ANSWERS, TALKS, Recognised, is_sharegpt, of_entry, recognise, talk
from tunesmith_stages.prepare.preferences import LABELS, NEEDED, PAIRS, Labelled, Pairs
from tunesmith_stages.prepare.turns import OPENAI_ROLES, Turns, messages_in, sharegpt_keys, sharegpt_roles
from tunesmith_stages.program import StageError

Words = Mapping[str, str]

_LABELS = ("kto_tag", "label")
"""Columns of the label, LLaMA-Factory's and TRL's; the first that a row has."""


def recognise_preferences(kind: str, wanted: str, columns: Words, tags: Words, first: Mapping[str, Any]) -> Recognised:
    """Return the format of rows of which one is known; `kind`: ``Pairs`` or ``Labels``; the rest as for `recognise`."""
    if kind == PAIRS:
        return _pairs(wanted, columns, tags, first)
    label = columns.get("desirable") or next((name for name in _LABELS if name in first), _LABELS[0])
    others = {name: column for name, column in columns.items() if name != "desirable"}
    return _labelled(recognise(wanted, others, tags, first), label)


def _labelled(found: Recognised, label: str) -> Recognised:
    return dataclasses.replace(
        found,
        why=f"{found.why}; `{label}` says which answers are desirable",
        shape=Labelled(found.shape, label),
        needed=(*found.needed, label),
        prefers=(label,),
    )


# --- pairs -----------------------------------------------------------------------------------------------------------


def _pairs(wanted: str, columns: Words, tags: Words, first: Mapping[str, Any]) -> Recognised:
    answers = _answers(columns, first)
    given = {name: column for name, column in columns.items() if name not in {"chosen", "rejected"}}
    whole = not given.keys() & {"messages", "prompt"} and _is_conversation(first.get(answers[0]), tags)
    name = wanted if wanted != "Auto" else _by_signs(given, tags, first, answers[0] if whole else None)
    chosen, rejected = (_side(name, given, tags, first, answer, whole=whole) for answer in answers)
    why, column = chosen.why, chosen.needed[0]
    if wanted == "Auto" and tags:
        why = "as `tags` says"
    elif wanted == "Auto":
        why = talk(column, first) if isinstance(chosen.shape, Turns) else f"the rows have the column `{column}`"
    return _paired(dataclasses.replace(chosen, why=why, named=tuple(columns.values())), rejected, answers)


def _paired(chosen: Recognised, rejected: Recognised, answers: tuple[str, str]) -> Recognised:
    are_texts = not isinstance(chosen.shape, Turns)
    return dataclasses.replace(
        chosen,
        why=f"{chosen.why}; `{answers[0]}` is preferred to `{answers[1]}`",
        shape=Pairs(chosen.shape, rejected.shape, answers, are_texts),
        needed=tuple(dict.fromkeys((*chosen.needed, *answers))),
        prefers=answers,
    )


def _answers(columns: Words, first: Mapping[str, Any]) -> tuple[str, str]:
    """Return the columns of the better and the worse answer."""
    usual = next((names for names in ANSWERS if names[0] in first), ANSWERS[0])
    return columns.get("chosen", usual[0]), columns.get("rejected", usual[1])


def _is_conversation(value: object, tags: Words) -> bool:
    """Say whether a value is a list of messages that begins with a question, so that no other column holds one."""
    keys = sharegpt_keys(tags)
    given = messages_in(value, keys)
    first = given[0] if isinstance(given, list) and given else None
    if not isinstance(first, dict):
        return False
    word = next((first[role] for role, _ in keys if role in first), None)
    roles = {**OPENAI_ROLES, **sharegpt_roles(tags)}
    return isinstance(word, str) and roles.get(word) in {"system", "user"}


def _by_signs(given: Words, tags: Words, first: Mapping[str, Any], whole: str | None) -> str:
    """Return the format of pairs; `whole` is the column with whole conversations, if that is what there is."""
    if tags:
        return "ShareGPT"
    if given.keys() & {"prompt", "query", "history"}:
        return "PromptCompletion" if _is_list(first.get(given.get("prompt", "prompt"))) else "Alpaca"
    column = given.get("messages") or whole or next((name for name in TALKS if name in first), None)
    if column:
        plain = column == "messages" or "messages" in given or whole
        return "Messages" if plain and "system" not in given and not is_sharegpt(first.get(column)) else "ShareGPT"
    return "PromptCompletion" if "prompt" in first and "instruction" not in first else "Alpaca"


def _is_list(value: object) -> bool:
    return isinstance(messages_in(value, sharegpt_keys({})), list)


def _side(name: str, given: Words, tags: Words, first: Mapping[str, Any], answer: str, *, whole: bool) -> Recognised:
    """Return how the prompt is read together with the answer in one column."""
    if whole and name in {"Messages", "ShareGPT"}:
        return recognise(name, {**given, "messages": answer}, tags, first)
    if name == "PromptCompletion" and _is_list(first.get(given.get("prompt", "prompt"))):
        prompt = given.get("prompt", "prompt")
        return Recognised(name, "as `format` says", Turns(prompt, "tools", answer=answer), (prompt,))
    if name in {"Alpaca", "PromptCompletion"}:
        return recognise(name, {**given, "response": answer}, tags, first)
    found = recognise(name, given, tags, first)
    if not isinstance(found.shape, Turns):
        return found
    return dataclasses.replace(found, shape=dataclasses.replace(found.shape, answer=answer))


# --- what an entry of dataset_info.json says -------------------------------------------------------------------------


def preferences_of_entry(kind: str, entry: Entry) -> Recognised:
    """Return the format that an entry describes; `kind` is ``Pairs`` or ``Labels``.

    Raises:
        StageError: it names no answers to compare, or no label.
    """
    columns = entry.columns or {}
    if kind == LABELS:
        if not columns.get("kto_tag"):
            raise _unfit(entry, "its `columns` have no `kto_tag`", kind)
        return _labelled(of_entry(entry), columns["kto_tag"])
    if not entry.ranking:
        raise _unfit(entry, "its `ranking` is not true", kind)
    if entry.columns is None:
        columns = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}
    if not columns.get("chosen") or not columns.get("rejected"):
        message = f"{FILE}: entry `{entry.name}`: `ranking` is true, so `columns` must name `chosen` and `rejected`"
        raise StageError(ExitCode.BAD_DATA, message, reason="BadDatasetInfo", hint="Name the columns of the answers.")
    answers = columns["chosen"], columns["rejected"]
    chosen, rejected = (_side_of_entry(entry, columns, answer) for answer in answers)
    named = tuple((entry.columns or {}).values())
    return _paired(dataclasses.replace(chosen, named=named), rejected, answers)


def _side_of_entry(entry: Entry, columns: Words, answer: str) -> Recognised:
    """Return how the prompt is read together with the answer in one column."""
    found = of_entry(dataclasses.replace(entry, columns={**columns, "response": answer}))
    if not isinstance(found.shape, Turns):
        return found
    return dataclasses.replace(found, shape=dataclasses.replace(found.shape, answer=answer))


def _unfit(entry: Entry, why: str, kind: str) -> StageError:
    message = f"the entry `{entry.name}` of {FILE}: {NEEDED[kind]}; {why}"
    labelled = "kto_tag" in (entry.columns or {})
    hint = LABELS_HINT if labelled else PAIRS_HINT if entry.ranking else SINGLE_HINT
    return StageError(ExitCode.BAD_DATA, message, reason="NoPreferences", hint=hint)
