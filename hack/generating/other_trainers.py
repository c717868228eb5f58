"""The tables of other trainers' options, from what people are told who write one of them into a job."""

from __future__ import annotations

from collections.abc import Sequence

from generating.sections import with_section

from tunesmith.api.elsewhere import DEEPSPEED, OPTIONS, Option


def with_tables_of_options(page: str) -> str:
    """Return `page` with a table for each group of options, and one for DeepSpeed's keys."""
    parts = [f"### {title}\n\n{_table(options)}" for title, options in OPTIONS.items()]
    parts.append(f"### Keys of DeepSpeed\n\n{_table(DEEPSPEED)}")
    return with_section(page, "options of other trainers", "\n\n".join(parts))


def _table(options: Sequence[Option]) -> str:
    return "\n".join(["| elsewhere | here |", "|---|---|", *map(_row, options)])


def _row(option: Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.names)
    note = option.note
    if option.field:
        return f"| {names} | `{option.field}`{f': {note}' if note else ''} |"
    return f"| {names} | {note if note.startswith('`') else note[:1].upper() + note[1:]}. |"
