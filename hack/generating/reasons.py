"""The tables of reasons in docs/troubleshooting.md, from the one table that programs and operator go by."""

from __future__ import annotations

from collections.abc import Sequence

from generating.sections import with_section

from tunesmith_stages.reasons import GROUPS
from tunesmith_stages.reasons.retry import AT_ONCE, LATER, NEVER, SHORT_LIVED, WAITS, Retry
from tunesmith_stages.reasons.row import Reason, Sign, Where

_HEADINGS = ("STATUS", "means", "what to do", "tried again", "exit code", "told by")
_FIXED = 2
"""So many columns stand in every table; of the others those in which rows differ, the rest is said above it."""


def with_tables_of_reasons(page: str) -> str:
    """Return `page` with a table for each group of reasons, and one of what "tried again" means."""
    page = with_section(page, "tried again", _retries())
    for name, rows in GROUPS.items():
        page = with_section(page, f"reasons: {name}", _table(rows))
    return page


def _retries() -> str:
    lines = ["| tried again | when | counted in `failures` |", "|---|---|---|"]
    lines += [f"| {retry.words} | {_when(retry)} | {_counted(retry)} |" for retry in (AT_ONCE, LATER, WAITS, NEVER)]
    return "\n".join(lines)


def _when(retry: Retry) -> str:
    if retry is NEVER:
        return "When somebody edits the job, or sets the annotation `tunesmith.dev/retry`."
    if not retry.longest:
        return "As soon as what it waits for is there. Nothing has failed."
    waits = f"{retry.delay(0)} s, {retry.delay(1)} s, {retry.delay(2)} s, ... at most {retry.longest} s"
    if retry.charged:
        return f"By a new Job after {waits}, for as long as it takes."
    return f"By a new Job at once; what did not live for {SHORT_LIVED} s waits {waits}."


def _counted(retry: Retry) -> str:
    return "yes" if retry.charged else "no"


def _table(rows: Sequence[Reason]) -> str:
    cells = [_cells(row) for row in rows]
    differ = [place for place in range(len(_HEADINGS)) if place < _FIXED or len({row[place] for row in cells}) > 1]
    same = [place for place in range(_FIXED, len(_HEADINGS)) if place not in differ and cells[0][place] != "-"]
    said = [f"{_HEADINGS[place].capitalize()}: {cells[0][place]}." for place in same]
    lines = [_line([_HEADINGS[place] for place in differ]), "|" + "---|" * len(differ)]
    lines += [_line([row[place] for place in differ]) for row in cells]
    return "\n".join([*([" ".join(said), ""] if said else []), *lines])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Reason) -> tuple[str, ...]:
    return (
        ", ".join(f"`{name}`" for name in row.names),
        row.means,
        row.hint or "-",
        ", or ".join(retry.words for retry in row.retries),
        ", ".join(str(int(code)) for code in row.classes) or "-",
        _told_by(row),
    )


def _told_by(row: Reason) -> str:
    if not row.signs:
        return Where.PROGRAM.value if row.classes else Where.OPERATOR.value
    found: dict[str, list[str]] = {}
    for sign in row.signs:
        found.setdefault(sign.where.value, []).append(_words(sign))
    return "; ".join(f"{where} {' or '.join(filter(None, words))}".strip() for where, words in found.items())


def _words(sign: Sign) -> str:
    parts = [f"`{text}`" for text in (sign.word, sign.text.replace("\n", "\\n").replace("|", "\\|")) if text]
    return ": ".join(parts)
