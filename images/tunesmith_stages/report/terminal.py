"""The report as plain text for a terminal."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence

from tunesmith_stages.report.blocks import BAD, GOOD, Bars, Block, Code, Folded, Items, Lines, Sample, Says, Table
from tunesmith_stages.report.facts import Facts
from tunesmith_stages.report.sections import sections_of
from tunesmith_stages.report.shown import count, line, moment
from tunesmith_stages.report.verdict import base_of, verdict_of

_SIGNS = {GOOD: "✓ ", BAD: "✗ "}
_BAR = 30
_WIDEST_CELL, _LONGEST_TEXT, _NARROWEST_TEXT = 64, 500, 24
_DIGEST = re.compile(r"[0-9a-f]{40,64}")


def text_of(facts: Facts, width: int = 100) -> str:
    """Return the whole report as text of about `width` columns; some tables are wider."""
    lines = [*summary_of(facts, width)]
    for section in sections_of(facts):
        lines += ["", section.title.upper()]
        for block in section.blocks:
            lines += ["", *_lines(block, width)]
    return "\n".join(lines) + "\n"


def summary_of(facts: Facts, width: int = 100) -> list[str]:
    """Return the few lines that say how a job stands."""
    verdict = verdict_of(facts)
    said = [f"{line(facts.job, 100)}: {verdict.word}", *_wrapped(verdict.sentence, width)]
    said += _wrapped(f"→ {verdict.hint}", width) if verdict.hint else []
    said += [f"base model: {base_of(facts)}"] if base_of(facts) else []
    said += [f"as of: {moment(verdict.when)}"] if verdict.when else []
    return [*said, *(f"run it: ollama run {name}" for name in verdict.models)]


def _lines(block: Block, width: int) -> Iterator[str]:
    match block:
        case Says(text, tone):
            yield from _wrapped(_SIGNS.get(tone, "") + text, width)
        case Table():
            yield from _table(block, width)
        case Lines(caption, alt):
            yield caption
            yield from _wrapped(f"  {alt}", width)
        case Bars(caption, _, bars):
            yield caption
            yield from _bars(bars)
        case Sample(caption, runs, marked):
            yield f"{caption}; {marked} stands between » and «"
            yield from _indented("".join(f"»{text}«" if learnt else text for learnt, text in runs), width)
        case Code(caption, text):
            yield caption
            yield from _indented(text, width)
        case Items(caption, items, more):
            yield caption
            for item in [*items, *([f"and {count(more)} more"] if more else [])]:
                yield from textwrap.wrap(f"- {item}", width, initial_indent="  ", subsequent_indent="    ")
        case Folded(title, blocks):
            # Whole texts, which people have in files of their own, are left to the page.
            told = [inner for inner in blocks if not isinstance(inner, Code)]
            yield from itertools.chain([title] if told else [], *(["", *_lines(inner, width)] for inner in told))


def _table(table: Table, width: int) -> Iterator[str]:
    """Yield the lines of a table. Texts in its last column are wrapped where the others leave it too little room."""
    rows = [[_cell(cell) for cell in row[:-1]] + [_cell(row[-1], _LONGEST_TEXT)] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(table.head, *rows, strict=True)]
    room = max(_NARROWEST_TEXT, width - sum(widths[:-1]) - 2 * len(widths))
    yield table.caption
    if sum(widths[:-1]) > width:
        yield from _records(table, width)
        return
    for row in [list(table.head), *rows]:
        cells = [
            cell.rjust(wide) if column in table.figures else cell.ljust(wide)
            for column, (cell, wide) in enumerate(zip(row, widths, strict=True))
        ]
        beside = "".join(f"  {cell}" for cell in cells[:-1])
        parts = textwrap.wrap(row[-1], room) if len(row[-1]) > room else [cells[-1].rstrip()]
        yield f"{beside}  {parts[0]}".rstrip()
        yield from (f"{' ' * len(beside)}  {part}" for part in parts[1:])
    if table.more:
        yield f"  and {count(table.more)} more"


def _records(table: Table, width: int) -> Iterator[str]:
    """Yield the rows of a table that is too wide for the terminal, each as a few lines below its first cell."""
    for first, *others in table.rows:
        yield f"  {line(first, _LONGEST_TEXT)}"
        for name, cell in zip(table.head[1:], others, strict=True):
            said = f"{name}: {_cell(cell, _LONGEST_TEXT)}"
            yield from textwrap.wrap(said, width, initial_indent="    ", subsequent_indent="      ")
    if table.more:
        yield f"  and {count(table.more)} more"


def _cell(text: str, limit: int = _WIDEST_CELL) -> str:
    """Return what there is room for: of a digest as much as people compare."""
    return f"{text[:12]}…" if _DIGEST.fullmatch(text) else line(text, limit)


def _bars(bars: Sequence[tuple[str, float, str]]) -> Iterator[str]:
    widest = max(len(name) for name, _, _ in bars)
    longest = max(value for _, value, _ in bars) or 1
    for name, value, words in bars:
        length = max(1, round(value / longest * _BAR)) if value else 0
        yield f"  {name.ljust(widest)}  {'█' * length} {words}"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _indented(text: str, width: int) -> Iterator[str]:
    for given in text.split("\n"):
        for part in textwrap.wrap(given, width - 4, drop_whitespace=False, break_on_hyphens=False) or [""]:
            yield f"  {part}".rstrip()
