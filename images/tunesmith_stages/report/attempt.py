"""What became of the newest attempt at a stage, kept in the job's folder: the operator alone would know otherwise.

``runs/<job>/attempts/<stage>.json`` is written when an attempt begins, and again when it ends. One without an end still
runs, or was killed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.contract import Failure, StageConfig, StageName
from tunesmith_stages.report.reading import mapping, read_text
from tunesmith_stages.volume import Volume, write_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """The newest attempt at a stage of a job."""

    config: StageConfig
    """Its ``stage.json``; the units of `fetch` with their real keys."""
    started: str
    """RFC 3339, UTC."""
    finished: str = ""
    """RFC 3339, UTC; empty as long as no end is known."""
    failure: Failure | None = None

    def to_json(self) -> str:
        """Return the text of the file."""
        data = {
            "started": self.started,
            "finished": self.finished,
            "failure": None if self.failure is None else dataclasses.asdict(self.failure),
            "config": json.loads(self.config.to_json()),
        }
        return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Attempt:
        """Read the file.

        Raises:
            ValueError: it is not JSON, or of another version of the contract.
            KeyError, TypeError: a field is missing or of the wrong kind.
        """
        data: dict[str, Any] = dict(mapping(json.loads(text)))
        failure = data["failure"]
        return cls(
            config=StageConfig.from_json(json.dumps(data["config"])),
            started=str(data["started"]),
            finished=str(data["finished"]),
            failure=None if failure is None else Failure.from_json(json.dumps(failure)),
        )


def keep_attempt(volume: Volume, attempt: Attempt) -> None:
    """Write an attempt into the job's folder. That it cannot be written is no failure of the stage."""
    path = volume.last_attempt(attempt.config.job, attempt.config.stage)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, attempt.to_json())
    except (OSError, ValueError) as error:
        log.warning("what became of this attempt is not kept in %s: %s", path, error)


def last_attempts(volume: Volume, job: str) -> list[Attempt]:
    """Return the newest attempt at each stage of a job, the newest of all first; what cannot be read is left out."""
    found = []
    for stage in StageName:
        try:
            found.append(Attempt.from_json(read_text(volume, volume.last_attempt(job, stage)) or ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return sorted(found, key=lambda attempt: attempt.started, reverse=True)
