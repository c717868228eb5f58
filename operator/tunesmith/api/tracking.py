"""Where people watch a training beside the job itself: the object `training.tracking`."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from tunesmith.api.sources import TokenSecret
from tunesmith.api.values import ApiModel, Rule

DEFAULT_PROJECT = "tunesmith"
PROJECT_PATTERN = r"^[A-Za-z0-9_./@-]([A-Za-z0-9_./@ -]{0,253}[A-Za-z0-9_./@-])?$"
_WANDB_PROJECT = re.compile(r"^([A-Za-z0-9_.-]+/)?[A-Za-z0-9_. -]{1,128}$")


class TrackerType(StrEnum):
    """Experiment trackers."""

    TENSORBOARD = "TensorBoard"
    MLFLOW = "MLflow"
    WEIGHTS_AND_BIASES = "WeightsAndBiases"


class TrackerToken(TokenSecret):
    """The token with which the tracker is asked. Only the kubelet reads it, for the pods of the training.

    A Secret that is not there holds up nothing: the training goes on. `tunesmith run` takes MLFLOW_TRACKING_TOKEN,
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or WANDB_API_KEY of its own environment instead.
    """


class Tracking(ApiModel):
    """An experiment tracker that shows the training while it runs.

    It enters no key and holds up nothing: a tracker that is down, slow or unwilling is told of in a note, and the
    training goes on. The addresses of the servers are the administrator's (`trackers`). `tunesmith run` takes
    MLFLOW_TRACKING_URI or WANDB_BASE_URL of its own environment instead.
    """

    RULES: ClassVar = (
        Rule(
            "goes with `type` MLflow or WeightsAndBiases only",
            lambda tracking: tracking.project is None or tracking.type is not TrackerType.TENSORBOARD,
            "!has(self.project) || self.type != 'TensorBoard'",
            ("project",),
        ),
        Rule(
            "goes with `type` MLflow or WeightsAndBiases only",
            lambda tracking: tracking.token_secret_ref is None or tracking.type is not TrackerType.TENSORBOARD,
            "!has(self.tokenSecretRef) || self.type != 'TensorBoard'",
            ("tokenSecretRef",),
        ),
        Rule(
            "must be `project` or `team/project` with `type: WeightsAndBiases`",
            lambda tracking: (
                tracking.project is None
                or tracking.type is not TrackerType.WEIGHTS_AND_BIASES
                or bool(_WANDB_PROJECT.search(tracking.project))
            ),
            "!has(self.project) || self.type != 'WeightsAndBiases' || "
            f"self.project.matches(r'{_WANDB_PROJECT.pattern}')",
            ("project",),
        ),
    )

    type: TrackerType
    """TensorBoard writes event files to the volume, below `runs/<job>/tracking`. MLflow sends to the administrator's
    server. WeightsAndBiases does, too; where there is none, or it does not answer, it keeps a folder on the volume that
    `wandb sync` takes."""

    project: Annotated[str, Field(min_length=1, max_length=255, pattern=PROJECT_PATTERN)] | None = None
    """MLflow's experiment, or W&B's `project` or `team/project`. Default: `tunesmith`."""

    token_secret_ref: TrackerToken | None = None
    """Token for the server: W&B's API key, or a bearer token or `user:password` for MLflow. Default: none."""
