"""How a stage tells how far it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import StageName


class Progress:
    """Tells how far a unit is: one JSON line per event, on stdout and in the attempt's ``progress.jsonl``.

    A line holds ``time``, ``stage``, ``unit`` and any of ``done``, ``total``, ``of`` (what is counted: rows, bytes,
    steps), ``note`` (what is going on, a few words) and ``metrics`` (name to number). Counting lines come at most
    twice a second; notes and metrics always.
    """

    _INTERVAL = 0.5

    def __init__(self, stage: StageName, unit: str, folder: Path) -> None:
        self._stage = stage
        self._unit = unit
        self._file = folder / "progress.jsonl"
        self._last = 0.0

    def note(self, text: str) -> None:
        """Say what begins now."""
        self._emit({"note": text})

    def count(self, done: int, total: int, of: str, metrics: Mapping[str, float] | None = None, note: str = "") -> None:
        """Say how many of how many are done; with `metrics` the line is never left out. `note`: what is done beside."""
        now = time.monotonic()
        if metrics is None and done < total and now - self._last < self._INTERVAL:
            return
        self._last = now
        event: dict[str, Any] = {"done": done, "total": total, "of": of}
        if metrics is not None:
            event["metrics"] = dict(metrics)
        if note:
            event["note"] = note
        self._emit(event)

    def counter(self, total: int, of: str) -> Callable[[int], None]:
        """Return a function that is told of increments, as file copies and hashes want it."""
        done = 0

        def advance(increment: int) -> None:
            nonlocal done
            done += increment
            self.count(done, total, of)

        return advance

    def _emit(self, event: Mapping[str, Any]) -> None:
        text = json.dumps({"time": now_text(), "stage": self._stage, "unit": self._unit, **event}, ensure_ascii=False)
        line = text.encode("utf-8", "backslashreplace").decode()  # half of a character, from somebody's data
        print(line, flush=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def now_text() -> str:
    """Return the time in RFC 3339, UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
