"""Shows each kind of block as HTML."""

from __future__ import annotations

from tunesmith_stages.report.blocks import BAD, GOOD, Bars, Block, Code, Folded, Items, Lines, Sample, Says, Table
from tunesmith_stages.report.charts import draw_bars, draw_lines
from tunesmith_stages.report.markup import Markup, joined, tag
from tunesmith_stages.report.shown import count

_SIGNS = {GOOD: "✓ ", BAD: "✗ "}


def drawn(block: Block) -> Markup:
    """Return a block as HTML."""
    match block:
        case Says(text, tone):
            return tag("p", _SIGNS.get(tone, ""), text, class_=f"says {tone}".rstrip())
        case Table():
            return _table(block)
        case Lines():
            return tag("figure", tag("figcaption", block.caption), draw_lines(block))
        case Bars():
            return tag("figure", tag("figcaption", block.caption), draw_bars(block))
        case Sample():
            return _sample(block)
        case Code(caption, text):
            return tag("figure", tag("figcaption", caption), tag("pre", tag("code", text), tabindex="0", dir="auto"))
        case Items(caption, items, more):
            entries = [tag("li", tag("bdi", item)) for item in items]
            if more:
                entries.append(tag("li", f"and {count(more)} more"))
            return tag("figure", tag("figcaption", caption), tag("ul", *entries))
        case Folded(title, blocks):
            return tag("details", tag("summary", title), *(drawn(inner) for inner in blocks))


def _table(table: Table) -> Markup:
    def cell(column: int, value: str, kind: str) -> Markup:
        classes = "figure" if column in table.figures else "long" if _is_long(value) else None
        scope = {"th": "row"}.get(kind)
        return tag(kind, tag("bdi", value), class_=classes, scope=scope)

    head = [
        tag("th", name, scope="col", class_="figure" if column in table.figures else None)
        for column, name in enumerate(table.head)
    ]
    rows = [
        tag("tr", *(cell(column, value, "td" if column else "th") for column, value in enumerate(row)))
        for row in table.rows
    ]
    if table.more:
        rows.append(tag("tr", tag("td", f"and {count(table.more)} more", colspan=len(table.head))))
    parts = (tag("caption", table.caption), tag("thead", tag("tr", *head)), tag("tbody", *rows))
    # A wide table scrolls by itself; so that the keyboard can do it too, it can be focused.
    kind = "pairs" if len(table.head) == 2 else None
    return tag(
        "div", tag("table", *parts, class_=kind), class_="wide", tabindex="0", role="group", aria_label=table.caption
    )


def _is_long(value: str) -> bool:
    """Tell whether a cell holds one long word, a key or a digest, that must be broken somewhere."""
    return len(value) > 30 and " " not in value


def _sample(sample: Sample) -> Markup:
    runs = [tag("mark", text) if learnt else tag("span", text) for learnt, text in sample.runs]
    legend = tag(
        "p",
        tag("mark", "Underlined and highlighted"),
        f" is {sample.marked}. Everything else the model only reads.",
        class_="legend",
    )
    text = tag("pre", joined(*runs), tabindex="0", class_="sample", dir="auto")
    return tag("figure", tag("figcaption", sample.caption), legend, text)
