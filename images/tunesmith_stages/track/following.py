"""Reads a ``metrics.jsonl`` while it grows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith_stages.track.asked import Event

_MOST = 4 * 1024 * 1024
"""Bytes that are read at once. The file itself is the queue of what is not passed on yet: it costs no memory."""


class Follower:
    """Returns what is new in a file of lines. Where the file has become another one, it begins anew."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self._last = b""  # the last line that was read

    def new(self, time: float) -> list[Event]:
        """Return the events that have come; at most some ten thousand of them at once.

        Those without a time of their own have `time`.
        """
        try:
            with self._file.open("rb") as file:
                file.seek(self._read - len(self._last))
                if file.read(len(self._last)) != self._last:
                    self._read, self._last = 0, b""
                    file.seek(0)
                part = file.read(_MOST)
        except OSError:  # not there yet, or for the moment not: whoever writes it has more to say of that
            return []
        whole = part[: part.rfind(b"\n") + 1]
        if not whole:
            return []
        self._read += len(whole)
        lines = whole.splitlines(keepends=True)
        self._last = lines[-1]
        return [event for line in lines if (event := _event(line, time)) is not None]


def _event(line: bytes, seen: float) -> Event | None:
    """Return the event of a line, at its own time: a tracker that was down is told later."""
    try:
        data: Mapping[str, Any] = json.loads(line)
        step = int(data["step"])
    except (ValueError, KeyError, TypeError):
        return None
    numbers = {name: float(value) for name, value in data.items() if name != "step" and _is_number(value)}
    return Event(step, numbers.pop("time", seen), numbers)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
