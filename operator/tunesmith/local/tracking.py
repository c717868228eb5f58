"""Experiment trackers on this machine: their addresses are those of the environment, as their own clients read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.tracking import TrackerType
from tunesmith.core.model import PlannedStage

_VARIABLES = {TrackerType.MLFLOW: "MLFLOW_TRACKING_URI", TrackerType.WEIGHTS_AND_BIASES: "WANDB_BASE_URL"}
_ADDRESS = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")


class TrackerNotSetUpError(Exception):
    """The job wants a tracker whose address is not known, or is none that can be used.

    Attributes:
        hint: what to do.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def tracker_url(job: FineTuneJob, environ: Mapping[str, str]) -> str:
    """Return the address of the server that a job's tracker has here; empty: none, and it needs none.

    Raises:
        TrackerNotSetUpError: it needs one and has none, or what is given is no address of a server.
    """
    tracking = job.spec.training.tracking
    variable = _VARIABLES.get(tracking.type) if tracking else None
    if tracking is None or variable is None:
        return ""
    given = environ.get(variable, "").strip()
    if not given and tracking.type is TrackerType.WEIGHTS_AND_BIASES:
        return ""
    if not _ADDRESS.fullmatch(given):
        what = f"{variable} is {given.rpartition('@')[2]!r}" if given else f"{variable} is not set"
        raise TrackerNotSetUpError(
            f"`spec.training.tracking.type` is {tracking.type}, but {what}",
            "Set it to the address of a server, such as http://127.0.0.1:5000, without user and password; those have "
            "variables of their own.",
        )
    return given


def tracker_runtime(job: FineTuneJob, stage: PlannedStage, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what `train` is told of its tracker, with the address; nothing, if the job has none."""
    tracking = stage.runtime.get("tracking")
    return {"tracking": {**tracking, "url": tracker_url(job, environ)}} if tracking else {}
