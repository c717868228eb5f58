"""What the pods of a training need besides: shared memory, and a way for those of several nodes to find each other."""

from __future__ import annotations

from typing import Any

from tunesmith.api import keys
from tunesmith.core.manifests.child import Child, child_metadata, child_name

MASTER_PORT = 29400
"""Port of torchrun's rendezvous, which is PyTorch's own default
(https://pytorch.org/docs/stable/elastic/run.html)."""
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
"""Kubernetes gives it to the pods of a Job."""


def master_address(child: Child) -> str:
    """Return the host name of the first of the pods that train together."""
    name = child_name(child)
    return f"{name}-0.{name}.{child.namespace}.svc"


def service(child: Child) -> dict[str, Any]:
    """Return the headless Service by which the pods that train together find each other, ready or not."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(child),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {JOB_NAME_LABEL: child_name(child), keys.STAGE_LABEL: str(child.stage.name)},
            "ports": [{"name": "rendezvous", "port": MASTER_PORT, "protocol": "TCP"}],
        },
    }


def spread_over_nodes(child: Child) -> dict[str, Any]:
    """Return the wish that each of the pods that train together has a machine of its own, where that can be."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {JOB_NAME_LABEL: child_name(child)}},
    }
    return {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]
        }
    }
