"""Workloads as Kueue makes them of Jobs, for tests without Kueue. The real ones: `tests/e2e/cluster/test_kueue.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.api import keys

NO_ROOM = (
    "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default-flavor, 1 more needed"
)
PREEMPTED = "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization in the ClusterQueue"
PENDING = {"QuotaReserved": ("False", "Pending", NO_ROOM)}


def workload(
    job: Mapping[str, Any], conditions: Mapping[str, tuple[str, str, str]], *, active: bool = True
) -> dict[str, Any]:
    """Return the Workload of a Job; `conditions` are status, reason and message by type."""
    meta = job["metadata"]
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": {
            "name": f"job-{meta['name']}-1",
            "namespace": meta["namespace"],
            "labels": {"kueue.x-k8s.io/job-uid": meta["uid"]},
            "ownerReferences": [{"kind": "Job", "name": meta["name"], "uid": meta["uid"]}],
        },
        "spec": {"active": active, "queueName": meta["labels"][keys.QUEUE_LABEL]},
        "status": {
            "conditions": [
                {"type": kind, "status": status, "reason": reason, "message": message}
                for kind, (status, reason, message) in conditions.items()
            ]
        },
    }


def pending_workloads(queue: str, namespace: str, places: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Return those that wait in a LocalQueue: by name the positions there and in the ClusterQueue, from 0."""
    return {
        "kind": "PendingWorkloadsSummary",
        "metadata": {"name": queue, "namespace": namespace},
        "items": [
            {
                "metadata": {"name": name, "namespace": namespace},
                "localQueueName": queue,
                "positionInLocalQueue": local,
                "positionInClusterQueue": cluster,
            }
            for name, (local, cluster) in places.items()
        ],
    }
