"""Makes texts of strangers, and figures, fit to be looked at."""

from __future__ import annotations

import unicodedata

_STEERS = frozenset("\u061c\u200b\u200e\u200f\u2028\u2029\ufeff\u00ad")
"""Characters that do not show, besides those of whole ranges; joiners are left, since emoji and scripts need them."""


def shown(value: str, limit: int = 2000) -> str:
    """Return a text of at most `limit` characters, and a remark on what was cut.

    Control characters, half characters, and those that steer the direction of a text are spelled out: ``⟨U+202E⟩``.
    """
    pieces: list[str] = []
    size = 0
    for place, character in enumerate(value):
        piece = f"⟨U+{ord(character):04X}⟩" if _hides(character) else character
        size += len(piece)
        if size > limit:
            return f"{''.join(pieces)}… ({len(value) - place:,} more characters)"
        pieces.append(piece)
    return "".join(pieces)


def line(value: str, limit: int = 300) -> str:
    """Return a text on one line, see :func:`shown`."""
    return shown(" ".join(value[: 4 * limit].split()) + ("…" if len(value) > 4 * limit else ""), limit)


def _hides(character: str) -> bool:
    if character in "\n\t":
        return False
    code = ord(character)
    steers = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or 0xE0000 <= code <= 0xE007F
    return steers or character in _STEERS or unicodedata.category(character) in {"Cc", "Cs"}


# --- figures ---------------------------------------------------------------------------------------------------------


def count(value: float | None) -> str:
    """Return a whole number with separators; a dash for None."""
    return "–" if value is None else f"{value:,.0f}"


def figure(value: float | None, digits: int = 4) -> str:
    """Return a number with so many digits; a dash for None."""
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Return a time in words; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def moment(time: str) -> str:
    """Return an RFC 3339 time as people read it: to the second."""
    return f"{time[:10]} {time[11:19]} UTC" if len(time) >= 19 else shown(time, 40) or "–"
