"""Parses JSON texts, and refuses what Python reads without complaint but nothing later can use."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 100
"""Lists and objects may be nested so deeply: more than any message needs, less than any later step can bear."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a pair that writes one character in JSON. Alone it is no character, and no tokenizer takes it."""


class HalfCharacterError(ValueError):
    """A text holds half of a surrogate pair."""


class NameTwiceError(ValueError):
    """An object holds two values of one name: Python would keep the last without a word."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise NameTwiceError(f"has an object with the name `{_first_twice(pairs)[:100]}` more than once")
    return made


def _first_twice(pairs: list[tuple[str, Any]]) -> str:
    """Return the first name that was there before; a row may have a million."""
    seen = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    return name


_decode = json.JSONDecoder(object_pairs_hook=_object).decode


def load_json(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        json.JSONDecodeError: it is not JSON.
        HalfCharacterError: one of its texts could not be written as UTF-8.
        NameTwiceError: one of its objects has a name twice.
        ValueError: it is nested too deeply, or has a number of thousands of digits.
    """
    try:
        value = _decode(text)
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise _too_deep()
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise HalfCharacterError(f"holds half of a surrogate pair, {half!r}, which is no character") from None
    return value


def _is_deep(value: object) -> bool:
    """Return whether there are more than MAX_DEPTH levels of lists and objects."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, dict | list) for item in level)


def _too_deep() -> ValueError:
    return ValueError(f"it is nested too deeply, in more than {MAX_DEPTH} levels")
