"""Which run of the tracker is this training's: ``run.json`` in its folder, for the attempts that come after."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from tunesmith_stages.track.asked import Asked, Ended
from tunesmith_stages.volume import write_whole


@dataclass(frozen=True)
class RunRecord:
    """The run of a training in a tracker."""

    path: Path
    place: tuple[str, str, str]
    """Tracker, address and project: in another one it is another run."""
    id: str = ""
    """Empty: there is none yet."""

    @classmethod
    def of(cls, asked: Asked) -> RunRecord:
        """Return the record of the run that goes on. After a training that ended well another one begins."""
        record = cls(asked.folder / "run.json", (str(asked.type), asked.url, asked.project))
        try:
            data = json.loads(record.path.read_text(encoding="utf-8"))
            goes_on = tuple(data["place"]) == record.place and not data["ended"]
            return cls(record.path, record.place, str(data["id"])) if goes_on else record
        except (OSError, ValueError, KeyError, TypeError):
            return record

    def begun(self, id_: str = "") -> RunRecord:
        """Keep the run's id; without one, an own is made up: 16 hexadecimal digits."""
        made = RunRecord(self.path, self.place, id_ or secrets.token_hex(8))
        made._write(ended=False)
        return made

    def close(self, ended: Ended) -> None:
        """Keep that the training has ended, if it did so for good."""
        if ended is Ended.WELL and self.id:
            self._write(ended=True)

    def _write(self, *, ended: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps({"place": self.place, "id": self.id, "ended": ended}) + "\n")
