"""What the parent and the ranks of one attempt tell each other: small files in ``ranks/``. Standard library only.

A parent reads the files of its own node only. What another machine wrote may show up late on a network file system, so
parents tell each other by other means: see :mod:`.link`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import Failure
from tunesmith_stages.volume import write_whole

NO_RANK = -1
"""Stands for a stage program where a rank is named."""


@dataclass(frozen=True)
class RankExit:
    """Why a rank gave up, in its own words."""

    rank: int
    """Counted over all nodes, or :data:`NO_RANK`."""
    time: float
    """Seconds since the epoch."""
    failure: Failure

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {"rank": self.rank, "time": self.time, "failure": json.loads(self.failure.to_json())}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RankExit:
        """Read what :meth:`to_dict` made."""
        return cls(int(data["rank"]), float(data["time"]), Failure.from_json(json.dumps(data["failure"])))


class Exchange:
    """The folder ``ranks/`` of an attempt."""

    def __init__(self, attempt: Path) -> None:
        self.folder = attempt / "ranks"
        self._events = self.folder / "events.jsonl"
        self._beats = self.folder / "alive"
        self._heard = 0

    def tell(self, event: Mapping[str, Any]) -> None:
        """Hand an event to the parent (rank 0): ``note``, or ``done``, ``total``, ``metrics`` and perhaps ``note``."""
        with self._events.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")

    def listen(self) -> list[dict[str, Any]]:
        """Return the events told since the last time; a line that a full volume has cut off is passed over."""
        new = b""
        if self._events.exists():
            with self._events.open("rb") as file:
                file.seek(self._heard)
                new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._heard += len(whole)
        return [event for line in whole.splitlines() if (event := _event(line)) is not None]

    def beat(self) -> None:
        """Give a sign of life (rank 0)."""
        with suppress(OSError):  # a volume that is full or gone is told by what needs it
            self._beats.touch()

    @property
    def last_beat(self) -> float:
        """When the last sign of life came, in seconds since the epoch; 0: none has."""
        try:
            return self._beats.stat().st_mtime
        except OSError:
            return 0.0

    def ask_to_end(self, node: int, seconds: float) -> None:
        """Ask the ranks of `node`, which is this one, to leave a checkpoint and to end within `seconds`."""
        write_whole(self.folder / f"end-{node}.json", json.dumps({"by": time.time() + seconds}))

    def seconds_left(self, node: int) -> float:
        """Return how soon the ranks of `node`, which is this one, must have ended; infinity: they are not asked to."""
        try:
            asked = json.loads((self.folder / f"end-{node}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return math.inf
        return float(asked["by"]) - time.time()

    def leave_exit(self, rank: int, failure: Failure) -> None:
        """Leave the reason why `rank` ends without having finished."""
        record = RankExit(rank, time.time(), failure)
        write_whole(self.folder / f"exit-{rank}.json", json.dumps(record.to_dict()))

    def exits(self) -> list[RankExit]:
        """Return what ranks have left, earliest first."""
        paths = self.folder.glob("exit-*.json")
        found = [RankExit.from_dict(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
        return sorted(found, key=lambda exit_: exit_.time)

    def leave_codes(self, node: int, codes: Mapping[int, int]) -> None:
        """Leave the exit codes of ranks that failed, as torchrun on `node` saw them; negative: ended by that signal."""
        write_whole(self.folder / f"launch-{node}.json", json.dumps({str(rank): code for rank, code in codes.items()}))

    def codes(self, node: int) -> dict[int, int]:
        """Return the exit codes that torchrun on `node` saw."""
        try:
            data = json.loads((self.folder / f"launch-{node}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return {int(rank): code for rank, code in data.items()}

    def leave_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Leave what the training came to (rank 0, after everything else)."""
        write_whole(self.folder / "outcome.json", json.dumps(outcome))

    def outcome(self) -> dict[str, Any] | None:
        """Return what the training came to, or None if it did not get that far."""
        try:
            data: dict[str, Any] = json.loads((self.folder / "outcome.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return data


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return event
