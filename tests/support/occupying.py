"""Pods that do nothing but take the place of others, and the priorities by which they do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "hack" / "testcluster"))  # scripts, not packages that are installed

from node import PAUSE_IMAGE


def occupying_pod(
    requests: Mapping[str, str] | None = None, priority: str = "", labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a Pod's template that asks for these resources until it is deleted."""
    asked = {"cpu": "50m", "memory": "16Mi", **(requests or {})}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "pause",
        "image": PAUSE_IMAGE,
        "resources": {"requests": asked, "limits": asked},
        "securityContext": security,
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        **({"priorityClassName": priority} if priority else {}),
    }
    return {"metadata": {"labels": dict(labels or {})}, "spec": spec}


def occupying_job(name: str, queue: str, priority: str) -> dict[str, Any]:
    """Return a Job in a queue whose Pod asks for what a small training asks for."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": queue}},
        "spec": {"suspend": True, "template": occupying_pod(priority=priority)},
    }


def priority_class(name: str, value: int) -> dict[str, Any]:
    """Return a PriorityClass."""
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
    }
