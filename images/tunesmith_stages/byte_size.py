"""Numbers of bytes as people say them."""

from __future__ import annotations


def size(value: float | None) -> str:
    """Return a number of bytes in the unit that people would use, by thousands; a dash for None."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:  # what would be rounded to 1000 is 1 of the next unit
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB" if value < 1000 else f"{value:,.0f} TB"
