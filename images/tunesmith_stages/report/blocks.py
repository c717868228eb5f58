"""What a report consists of, whatever it is shown on: sections of paragraphs, tables, charts and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

GOOD, BAD, NOTE, PLAIN = "good", "bad", "note", ""
"""How a sentence is meant. It is shown by a sign and a colour, never by the colour alone."""


@dataclass(frozen=True)
class Says:
    """A sentence or a few."""

    text: str
    tone: str = PLAIN


@dataclass(frozen=True)
class Table:
    """Rows under a caption. The first cell of each row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: frozenset[int] = frozenset()
    """Columns of figures, which stand to the right."""
    more: int = 0
    """Rows that are not shown."""


@dataclass(frozen=True)
class Lines:
    """Curves over steps."""

    caption: str
    alt: str
    """What it shows, in words."""
    x: str
    """What is counted along it."""
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]]


@dataclass(frozen=True)
class Bars:
    """A bar for each of some things, one below the other."""

    caption: str
    alt: str
    bars: Sequence[tuple[str, float, str]]
    """Name, length, and the length in words."""


@dataclass(frozen=True)
class Sample:
    """A text in which what is learnt is marked."""

    caption: str
    runs: Sequence[tuple[bool, str]]
    marked: str = "what is learnt"
    """What the marked runs are."""


@dataclass(frozen=True)
class Code:
    """A text to be copied, or one that a program wrote."""

    caption: str
    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    caption: str
    items: Sequence[str]
    more: int = 0


@dataclass(frozen=True)
class Folded:
    """Blocks that few people look at."""

    title: str
    blocks: Sequence[Block]


Block = Says | Table | Lines | Bars | Sample | Code | Items | Folded


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading."""

    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
