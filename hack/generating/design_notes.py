"""The list of design notes, from the notes' own first lines."""

from __future__ import annotations

import re
from pathlib import Path

from generating.sections import with_section

_TITLE = re.compile(r"^# (\d{4}): (.+)$")


def with_list_of_notes(page: str, folder: Path) -> str:
    """Return `page` with a line for each note in `folder`.

    Raises:
        ValueError: a note does not begin with its number and title.
    """
    lines = []
    for path in sorted(folder.glob("[0-9]*.md")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        title = _TITLE.match(first)
        if title is None or not path.name.startswith(title[1]):
            raise ValueError(f"{path.name} must begin with '# {path.name[:4]}: Title', not {first!r}")
        lines.append(f"- [{title[1]}]({path.name}): {title[2]}")
    return with_section(page, "list of notes", "\n".join(lines))
