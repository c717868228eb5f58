"""Experiment trackers on this machine."""

from __future__ import annotations

from typing import Any

import pytest

from support.builders import job
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.local.tracking import TrackerNotSetUpError, tracker_url


def job_with(type_: str) -> FineTuneJob:
    return job({"spec.training.tracking": {"type": type_}})


@pytest.mark.parametrize(
    ("type_", "environ", "url"),
    [
        ("TensorBoard", {"MLFLOW_TRACKING_URI": "http://here:5000"}, ""),
        ("MLflow", {"MLFLOW_TRACKING_URI": "http://here:5000"}, "http://here:5000"),
        ("MLflow", {"MLFLOW_TRACKING_URI": " https://here/mlflow "}, "https://here/mlflow"),
        ("WeightsAndBiases", {}, ""),
        ("WeightsAndBiases", {"WANDB_API_KEY": "k"}, ""),
        ("WeightsAndBiases", {"WANDB_BASE_URL": "https://wandb.example.test"}, "https://wandb.example.test"),
    ],
)
def test_the_address_is_that_of_the_environment(type_: str, environ: dict[str, str], url: str) -> None:
    """It is read from the variable of the tracker's own client; nothing is sent anywhere that nobody named."""
    assert tracker_url(job_with(type_), environ) == url


def test_no_tracker_needs_no_address() -> None:
    """A job without one is none the wiser."""
    assert tracker_url(job(), {"MLFLOW_TRACKING_URI": "nonsense"}) == ""


@pytest.mark.parametrize(
    ("type_", "environ", "words"),
    [
        ("MLflow", {}, "MLFLOW_TRACKING_URI is not set"),
        ("MLflow", {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}, "is 'sqlite:///mlflow.db'"),
        ("MLflow", {"MLFLOW_TRACKING_URI": "http://me:secret@here:5000"}, "is 'here:5000'"),
        ("WeightsAndBiases", {"WANDB_BASE_URL": "wandb.example.test"}, "WANDB_BASE_URL is"),
    ],
)
def test_what_is_no_address_is_refused(type_: str, environ: dict[str, Any], words: str) -> None:
    """It is said which variable to set, and no password is repeated."""
    with pytest.raises(TrackerNotSetUpError) as refused:
        tracker_url(job_with(type_), environ)
    assert words in str(refused.value)
    assert "secret" not in f"{refused.value} {refused.value.hint}"
