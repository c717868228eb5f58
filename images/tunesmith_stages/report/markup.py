"""Writes HTML. Whatever is not made here is text, and is escaped."""

from __future__ import annotations

import html


class Markup(str):
    """HTML that was made by :func:`tag`, and is not escaped again."""

    __slots__ = ()


_VOID = frozenset({"meta", "br"})


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """Return an element. Attributes are named as in HTML, with ``_`` for ``-``, and one after Python's words."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """Return what several children come to."""
    return Markup(
        "".join(child if isinstance(child, Markup) else html.escape(child, quote=False) for child in children)
    )
