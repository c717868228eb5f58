"""Which log is meant: of which stage, and of which attempt at it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.api.status import State
from tunesmith.cli.kubectl.errors import SaidError
from tunesmith.core.record import ACTIVE

Status = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """One attempt at a stage."""

    stage: str
    """Empty if only the attempt's name is known."""
    attempt: str
    """Name of the Kubernetes Job that made it, or of one of its pods."""


def choose(status: Status, stage: str | None, attempt: str | None) -> Choice:
    """Return the attempt that is meant.

    Args:
        status: the FineTuneJob's.
        stage: the stage that the user names. None: the one that runs, else the one that failed, else the last that ran.
        attempt: a number, or a name as the list of logs gives it. None: the newest.

    Raises:
        SaidError: there has not been such an attempt.
    """
    if attempt is not None and not attempt.isdecimal():
        return Choice(stage or str(newest_try(status, attempt).get("name", "")), attempt)
    record = _default(status) if stage is None else _named(status, stage)
    newest = int(record.get("attempts", 0))
    number = int(attempt) if attempt is not None else newest
    if not 1 <= number <= newest:
        tried = "once" if newest == 1 else f"{newest} times"
        raise SaidError(
            f"{record['name']} has no attempt {number}: it was tried {tried}.", "`--list` says which logs there are."
        )
    return Choice(record["name"], attempt_name(record["job"], number))


def newest_try(status: Status, attempt: str) -> Mapping[str, Any]:
    """Return what the status says of the stage whose newest try an attempt is, or is a pod of; empty if of none."""
    for record in _stages(status):
        job = record.get("job")
        if job and (attempt == job or attempt.startswith(f"{job}-")):
            return record
    return {}


def attempt_name(job: str, number: int) -> str:
    """Return the name of the Kubernetes Job of another attempt at the same; their names end in the number.

    Logs on the volume are kept under the pod's name, which begins with the Job's, or where several pods work together
    under the Job's own.
    """
    return re.sub(r"-[0-9]+$", f"-{number}", job)


def _stages(status: Status) -> list[Mapping[str, Any]]:
    return list(status.get("stages") or ())


def _named(status: Status, stage: str) -> Mapping[str, Any]:
    record: Mapping[str, Any] = next((item for item in _stages(status) if item["name"] == stage), {"name": stage})
    if record.get("job"):
        return record
    if record.get("state") == State.SUCCEEDED:
        raise SaidError(
            f"{stage} has not run for this FineTuneJob: its results were on the volume already.",
            "`--list` says which logs there are, also of earlier FineTuneJobs of this name.",
        )
    raise SaidError(
        f"{stage} has not begun yet, as the job is written now.",
        "`kubectl tunesmith status` tells where it stands; `--list` says which logs there are, also of earlier tries.",
    )


def _default(status: Status) -> Mapping[str, Any]:
    ran = [item for item in _stages(status) if item.get("job")]
    if not ran:
        raise SaidError(
            "No stage has run for this FineTuneJob.",
            "`kubectl tunesmith status` tells where it stands; `--list` says which logs there are.",
        )
    running = [item for item in ran if item["state"] in ACTIVE]
    failed = [item for item in ran if item["state"] == State.FAILED]
    return (running or failed or [max(reversed(ran), key=lambda item: str(item.get("startTime", "")))])[-1]
