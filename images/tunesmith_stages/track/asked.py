"""What the tracking process is asked for, and what it has to do with whoever started it. Standard library only."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TOKEN_VARIABLE = "TUNESMITH_TRACKING_TOKEN"  # noqa: S105 - the name of a variable
"""Variable of the environment with the token. It is in no file, no argument and no log."""

SECRET_VARIABLES = (TOKEN_VARIABLE, "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY")
"""Variables that nobody needs but the tracking process; the others are people's own, for `tunesmith run`."""


class TrackerType(enum.StrEnum):
    """The trackers, as a FineTuneJob names them."""

    TENSORBOARD = "TensorBoard"
    MLFLOW = "MLflow"
    WEIGHTS_AND_BIASES = "WeightsAndBiases"


class Ended(enum.StrEnum):
    """How a training ended."""

    WELL = "Well"
    FAILED = "Failed"
    INTERRUPTED = "Interrupted"
    """It will go on."""


@dataclass(frozen=True)
class Event:
    """A line of ``metrics.jsonl``."""

    step: int
    time: float
    """When it was read, in seconds since the epoch: a second or so after it was written."""
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Asked:
    """Which training is to be shown where."""

    parent: int
    """Process number of whoever started the process."""
    type: TrackerType
    url: str
    """Address of the server; empty for TensorBoard, and for W&B where everything stays on the volume."""
    project: str
    """MLflow's experiment, or W&B's ``project`` or ``team/project``."""
    name: str
    """What the run is called: the FineTuneJob's name."""
    params: Mapping[str, str]
    """Settings of the training, by the names that they have in the FineTuneJob."""
    tags: Mapping[str, str]
    """What was trained on what: ``key``, ``model``, ``data``."""
    metrics: Path
    """The ``metrics.jsonl`` that is followed."""
    folder: Path
    """Where things may be kept on the volume: the training's own folder, the same for all attempts."""
    log: Path
    """Where the process writes what it, and the tracker's library, has to say."""

    def to_json(self) -> str:
        """Return it as one argument."""
        paths = {name: str(getattr(self, name)) for name in ("metrics", "folder", "log")}
        return json.dumps({**dataclasses.asdict(self), **paths})

    @classmethod
    def from_json(cls, text: str) -> Asked:
        """Read what :meth:`to_json` made."""
        data = json.loads(text)
        paths = {name: Path(data[name]) for name in ("metrics", "folder", "log")}
        return cls(**{**data, **paths, "type": TrackerType(data["type"])})


class TrackerDownError(Exception):
    """The tracker cannot take anything now; it may later."""


class TrackerRefusesError(Exception):
    """The tracker does not want this run, and will not without somebody's doing.

    Attributes:
        hint: what to do.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Tracker(Protocol):
    """A run in a tracker."""

    def open(self) -> str:
        """Begin the run, or go on with it; return in a few words where it is to be seen.

        It is called again after :class:`TrackerDownError`, then to find out what has arrived.

        Raises:
            TrackerDownError, TrackerRefusesError: as their names say.
        """

    def send(self, events: Sequence[Event]) -> None:
        """Pass on what the run does not have yet; errors as :meth:`open`."""

    def close(self, ended: Ended) -> str:
        """End the run; return what people should know, mostly nothing. Errors as :meth:`open`."""
