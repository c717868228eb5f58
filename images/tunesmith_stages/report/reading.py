"""Reads what lies on a volume as data of strangers: of bounded size, of any shape, from nowhere else."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith_stages.volume import Volume

_MOST_BYTES = 8 << 20
"""Of one file. The largest that is read, the metrics of a training, holds 50,000 lines in so much."""


def read_text(volume: Volume, path: Path) -> str | None:
    """Return the text of a file below the volume's root, its first 8 MiB; None if there is none to be read."""
    try:
        place = volume.resolve(volume.relative(path))
        if not stat.S_ISREG(place.stat().st_mode):
            return None
        with place.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):  # a link that leads out of the volume is a ValueError
        return None


def read_json(volume: Volume, path: Path) -> Any:
    """Return the JSON value in a file; None if there is none that can be read."""
    try:
        return json.loads(read_text(volume, path) or "null")
    except (ValueError, RecursionError):
        return None


def read_json_lines(volume: Volume, path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON objects of a file with one on each line; lines that hold something else are passed over."""
    for line in (read_text(volume, path) or "").split("\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


# --- values of any shape ---------------------------------------------------------------------------------------------


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object of JSON; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def listed(value: object) -> list[Any]:
    """Return a list of JSON; an empty one for anything else."""
    return value if isinstance(value, list) else []


def number(value: object) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float can hold
        return None


def text(value: object) -> str:
    """Return a text; an empty one for anything else but numbers."""
    return value if isinstance(value, str) else str(value) if number(value) is not None else ""
