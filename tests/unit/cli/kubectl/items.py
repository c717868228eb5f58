"""FineTuneJobs and pods as the API server gives them, for tests of the kubectl plugin."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from support.builders import job_data
from tunesmith.api import keys

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
UID = "0a1b2c3d-0000-0000-0000-000000000001"
CHAIN = ("fetch", "prepare", "rehearse", "train", "convert", "quantize", "register")
DIGEST = "5f" * 32
PLACE: Mapping[str, Any] = {
    "image": "stages:1",
    "storage": {"claimName": "shared", "subPath": "jobs/team-a", "runAsUser": 2000, "supplementalGroups": [4000]},
}
"""What a status says of where the job's logs are."""


def item(
    status: Mapping[str, Any] | None = None,
    *,
    spec: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    **meta: Any,
) -> dict[str, Any]:
    """Return a FineTuneJob with a status; `spec` holds changes as :func:`support.builders.job_data` takes them."""
    data = job_data(spec)
    data["metadata"] |= {
        "namespace": "team-a",
        "uid": UID,
        "generation": 2,
        "resourceVersion": "7",
        "annotations": dict(annotations or {}),
        **meta,
    }
    return data if status is None else {**data, "status": dict(status)}


def ready(reason: str, message: str = "", *, done: bool = False, stalled: bool = False) -> dict[str, Any]:
    """Return the part of a status that says where the job stands, at the newest generation."""
    said = {"Ready": done, "Reconciling": not done and not stalled, "Stalled": stalled}
    conditions = [
        {
            "type": kind,
            "status": str(holds),
            "reason": reason,
            "message": message,
            "lastTransitionTime": "2026-05-04T11:00:00Z",
        }
        for kind, holds in said.items()
    ]
    return {"observedGeneration": 2, "conditions": conditions}


def stage(name: str, state: str, attempts: int = 0, **more: Any) -> dict[str, Any]:
    """Return what a status says of a stage; one that was tried has the name of its newest Job."""
    tried = {"job": job_name(name, attempts), "attempts": attempts} if attempts else {}
    return {"name": name, "state": state, **tried, **more}


def job_name(name: str, attempt: int) -> str:
    """Return the name of the Job of an attempt at a stage."""
    return f"support-bot-{name}-0a1b2c3d-{attempt}"


def pod(attempt: str, suffix: str = "x1", *, index: int | None = None, **status: Any) -> dict[str, Any]:
    """Return a pod of an attempt; `status` is the pod's own."""
    number = {} if index is None else {"batch.kubernetes.io/job-completion-index": str(index)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{attempt}-{suffix}",
            "namespace": "team-a",
            "labels": {keys.UID_LABEL: UID, "batch.kubernetes.io/job-name": attempt},
            "annotations": number,
        },
        "status": status,
    }


def container(**state: Any) -> list[dict[str, Any]]:
    """Return the status of a pod's only container in a state, such as ``running={}``."""
    return [{"name": "stage", "state": state}]
