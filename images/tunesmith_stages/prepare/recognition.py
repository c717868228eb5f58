"""Recognises what the rows of a dataset look like, and says why; what cannot be learnt from is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.conversations import listed
from tunesmith_stages.prepare.dataset_info import FILE, LABELS_HINT, PAIRS_HINT, SINGLE_HINT, read_entry
from tunesmith_stages.prepare.formats import Recognised, of_entry, preferences_in, recognise
from tunesmith_stages.prepare.preference_formats import preferences_of_entry, recognise_preferences
from tunesmith_stages.prepare.preferences import LABELS, NEEDED, PAIRS
from tunesmith_stages.prepare.reader import Reader
from tunesmith_stages.prepare.row import BadRow, Row
from tunesmith_stages.prepare.rows import parse, read_batches
from tunesmith_stages.program import StageError

_FIRST_ROWS = 1000
"""So many rows are looked at for columns that rows may lack."""


def reader_for(dataset: Mapping[str, Any], folder: Path, preferences: str | None = None) -> Reader:
    """Return how to read a dataset, from its parameters and its first rows.

    Args:
        dataset: what the stage's parameters say of it.
        folder: with its files.
        preferences: ``Pairs`` or ``Labels`` where the rows must say which answers people prefer.

    Raises:
        StageError: it has no rows, no known format fits, the columns that it needs are not there, or it holds what
            cannot be learnt from. The message names the dataset.
    """
    try:
        name = dataset.get("datasetInfo")
        described = _described(name, folder, preferences) if name else None
        rows: dict[tuple[str, ...], Row] = {}
        for row in islice(_good_rows(folder, skip=dataset.get("onBadRow") == "Skip"), _FIRST_ROWS):
            rows.setdefault(tuple(row.data), row)  # one for all with the same columns: rows may be of megabytes
    except StageError as error:
        message = f"dataset `{dataset['name']}`, {error.message}"
        raise StageError(error.code, message, reason=error.reason, hint=error.hint) from error
    if not rows:
        raise StageError(
            ExitCode.BAD_DATA,
            f"dataset `{dataset['name']}` is empty: it holds no rows",
            reason="EmptyDataset",
            hint="Put rows into it or remove it from `datasets`.",
        )
    return reader_of(dataset, list(rows.values()), described, preferences)


def _described(name: str, folder: Path, preferences: str | None) -> Recognised:
    """Return what the dataset_info.json in a folder says of its rows."""
    try:
        content = (folder / FILE).read_bytes()
    except FileNotFoundError:
        hint = "Remove `datasetInfo`, or put the file beside the data."
        message = f"`datasetInfo` is {name!r}, but there is no {FILE}"
        raise StageError(ExitCode.BAD_DATA, message, reason="BadDatasetInfo", hint=hint) from None
    entry = read_entry(content, name)
    if preferences:
        return preferences_of_entry(preferences, entry)
    entry.require_one_answer()
    return of_entry(entry)


def _good_rows(folder: Path, *, skip: bool) -> Iterator[Row]:
    first: BadRow | None = None
    found = False
    for batch in read_batches(folder):
        for row in parse(batch):
            if isinstance(row, Row):
                found = True
                yield row
            elif not skip:
                raise row.error()
            first = first or (row if isinstance(row, BadRow) else None)
    if first and not found:
        raise first.error()


def reader_of(
    dataset: Mapping[str, Any],
    rows: Sequence[Row],
    described: Recognised | None = None,
    preferences: str | None = None,
) -> Reader:
    """Return how to read a dataset of which some rows are known; see :func:`reader_for`."""
    columns = _given(dataset, "columns")
    _require_different(dataset, _given(dataset, "tags"))
    first = rows[0]
    if not preferences:
        _refuse_preferences(dataset, first, columns, described)
    recognised, missing = _recognised(dataset, first, rows, described, preferences)
    if missing is not None and dataset.get("onBadRow") == "Skip":  # the first row may be one of the bad ones
        others = (_recognised(dataset, row, rows, described, preferences) for row in rows[1:])
        recognised, missing = next(((found, None) for found, lacks in others if lacks is None), (recognised, missing))
    lacks_answers = not described and missing and any(name not in first.data for name in recognised.prefers)
    if preferences and (lacks_answers or recognised.format == "Text"):
        raise _no_preferences(dataset, first, preferences)
    if missing is not None:
        raise StageError(
            ExitCode.BAD_DATA,
            f"dataset `{dataset['name']}` ({first.place}) has no column `{missing}`; it has {listed(first.data)}",
            reason="MissingColumn",
            hint=f"Correct `columns` of the entry in {FILE}." if described else _HOW_TO_MAP[preferences],
        )
    _refuse_columns_without_use(dataset, recognised, columns)
    found = f"{recognised.format}: {recognised.why}.{_not_used(recognised, rows)}"
    return Reader(
        recognised.format, found, recognised.shape, dataset["substitutions"], recognised.num_samples, preferences
    )


def _recognised(
    dataset: Mapping[str, Any],
    first: Row,
    rows: Sequence[Row],
    described: Recognised | None,
    preferences: str | None,
) -> tuple[Recognised, str | None]:
    """Return what the rows are, going by the one that is `first`, and a column that should be there and is not."""
    wanted, columns, tags = dataset["format"], _given(dataset, "columns"), _given(dataset, "tags")
    if described:
        recognised = described
    elif preferences:
        recognised = recognise_preferences(preferences, wanted, columns, tags, first.data)
    else:
        recognised = recognise(wanted, columns, tags, first.data)
    missing = [column for column in recognised.needed if column not in first.data]
    if not missing:
        known = {column for row in rows for column in row.data}
        missing = [column for column in recognised.named if column not in known]
    return recognised, missing[0] if missing else None


def _given(dataset: Mapping[str, Any], field: str) -> dict[str, str]:
    return {name: word for name, word in (dataset.get(field) or {}).items() if word}


def _refuse_columns_without_use(dataset: Mapping[str, Any], recognised: Recognised, columns: Mapping[str, str]) -> None:
    """Refuse columns that somebody named and that rows of this format are not read from."""
    unused = [name for name, column in columns.items() if column not in recognised.columns()]
    if unused:
        message = (
            f"dataset `{dataset['name']}`: `columns.{unused[0]}` names `{columns[unused[0]]}`, but rows of the format "
            f"{recognised.format} have no place for it ({recognised.why})"
        )
        hint = "Remove it from `columns`, or name the `format` and all its columns: Alpaca has most of them."
        raise StageError(ExitCode.BAD_CONFIG, message, reason="MissingColumn", hint=hint)


def _not_used(recognised: Recognised, rows: Sequence[Row]) -> str:
    """Return a sentence about the columns that nothing is read from, if there are any."""
    used = recognised.columns()
    names = dict.fromkeys(column for row in rows for column in row.data if column not in used)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f" Not used: {listed(dict.fromkeys(list(names)[:10]))}{more}." if names else ""


def _refuse_preferences(
    dataset: Mapping[str, Any], first: Row, columns: Mapping[str, str], described: Recognised | None
) -> None:
    """Refuse rows that compare answers, unless the job, or the entry that it names, says which of them to learn."""
    answers = "completion" in first.data or "messages" in first.data or "conversations" in first.data
    guessed = dataset["format"] == "Auto" and not described
    judged = guessed and answers and isinstance(first.data.get("label"), bool)
    found = preferences_in(first.data)
    named = {*columns.values(), *(described.named if described else ())}
    if (found and not {"chosen", "chosen_messages"} & named) or judged:
        columns_shown = listed(first.data)
        message = f"dataset `{dataset['name']}` ({first.place}) is preference data (ranking): it has {columns_shown}"
        hint = _HINTS[found] if found else f"{LABELS_HINT} If `label` says something else, name the `format`."
        raise StageError(ExitCode.BAD_DATA, message, reason="PreferenceData", hint=hint)


def _no_preferences(dataset: Mapping[str, Any], first: Row, wanted: str) -> StageError:
    """Return the error for rows that do not say which answers people prefer, or say it in the other way."""
    found = preferences_in(first.data) or (LABELS if isinstance(first.data.get("label"), bool) else None)
    message = f"dataset `{dataset['name']}` ({first.place}): {NEEDED[wanted]}; it has {listed(first.data)}"
    hint = _HINTS[found] if found and found != wanted else f"{_HOW_TO_NAME[wanted]} {SINGLE_HINT}"
    return StageError(ExitCode.BAD_DATA, message, reason="NoPreferences", hint=hint)


_HINTS = {PAIRS: PAIRS_HINT, LABELS: LABELS_HINT}
_HOW_TO_NAME = {
    PAIRS: "If other columns hold them, say so: `columns: {chosen: ..., rejected: ...}`.",
    LABELS: "If another column says it, true or false, name it: `columns: {desirable: ...}`.",
}


def _require_different(dataset: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Refuse one word for two roles, or for both keys."""
    for names in (("role", "content"), ("user", "assistant", "observation", "function", "system")):
        words = [tags[name] for name in names if name in tags]
        if len(words) != len(set(words)):
            message = f"dataset `{dataset['name']}`: `tags` has one word for two things: {', '.join(words)}"
            raise StageError(ExitCode.BAD_CONFIG, message, reason="BadTags", hint="Give each a word of its own.")


_SINGLE = (
    "Rows must be Alpaca (instruction, output), ShareGPT (conversations, a list of from and value), Messages "
    "(messages, a list of role and content), PromptCompletion (prompt, completion) or Text (text). Say which columns "
    "to use, such as `columns: {prompt: question, response: answer}` or `columns: {messages: talk}`."
)
_HOW_TO_MAP = {
    None: _SINGLE,
    PAIRS: "Beside `chosen` and `rejected` rows must have the prompt: Alpaca (instruction), ShareGPT (conversations), "
    "Messages (messages) or PromptCompletion (prompt); or both are whole conversations. Say which columns to use, such "
    "as `columns: {prompt: question, chosen: better, rejected: worse}`.",
    LABELS: f"{_SINGLE} `desirable` names the column of the label.",
}
