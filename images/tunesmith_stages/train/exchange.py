"""What the parent and the ranks of one attempt tell each other: small files in ``ranks/``. Standard library only."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import Failure
from tunesmith_stages.volume import write_whole


@dataclass(frozen=True)
class RankExit:
    """Why a rank gave up, in its own words."""

    rank: int
    time: float
    """Seconds since the epoch."""
    failure: Failure


class Exchange:
    """The folder ``ranks/`` of an attempt."""

    def __init__(self, attempt: Path) -> None:
        self.folder = attempt / "ranks"
        self._events = self.folder / "events.jsonl"

    def tell(self, event: Mapping[str, Any]) -> None:
        """Hand an event to the parent (rank 0): ``note``, or ``done``, ``total`` and ``metrics``."""
        with self._events.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")

    def listen(self) -> Iterator[list[dict[str, Any]]]:
        """Yield, each time it is asked, the events told since the last time."""
        position = 0
        while True:
            new = b""
            if self._events.exists():
                with self._events.open("rb") as file:
                    file.seek(position)
                    new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            position += len(whole)
            yield [json.loads(line) for line in whole.splitlines()]

    def leave_exit(self, rank: int, failure: Failure) -> None:
        """Leave the reason why `rank` ends without having finished."""
        record = {"rank": rank, "time": time.time(), "failure": json.loads(failure.to_json())}
        write_whole(self.folder / f"exit-{rank}.json", json.dumps(record))

    def exits(self) -> list[RankExit]:
        """Return what ranks have left, earliest first."""
        found = []
        for path in self.folder.glob("exit-*.json"):
            record = json.loads(path.read_text(encoding="utf-8"))
            found.append(RankExit(record["rank"], record["time"], Failure.from_json(json.dumps(record["failure"]))))
        return sorted(found, key=lambda exit_: exit_.time)

    def leave_codes(self, codes: Mapping[int, int]) -> None:
        """Leave the exit codes of ranks that failed, as torchrun saw them; negative: ended by that signal."""
        write_whole(self.folder / "launch.json", json.dumps({str(rank): code for rank, code in codes.items()}))

    def codes(self) -> dict[int, int]:
        """Return the exit codes that torchrun saw."""
        try:
            data = json.loads((self.folder / "launch.json").read_text(encoding="utf-8"))
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
