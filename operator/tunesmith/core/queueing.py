"""Where a Job stands in a queue of Kueue, as its Workload tells it.

A Workload is what Kueue makes of a Job that has its label (https://kueue.sigs.k8s.io/docs/concepts/workload/). Its
conditions `QuotaReserved`, `Admitted`, `Evicted` and `Finished` say what Kueue thinks of it, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.api import keys
from tunesmith.core.observe import Waiting

Object = Mapping[str, Any]

QUEUED = "Queued"
"""Reason while a queue may admit the Job by itself."""
INADMISSIBLE = "Inadmissible"
"""Reason, and Kueue's own word, while the queue cannot admit it before somebody changes something."""
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
"""Kueue gives it to a Workload, with the uid of its Job."""


@dataclass(frozen=True)
class Place:
    """Places in the order in which Kueue looks at Workloads; the first one is 1."""

    local: int
    """In the LocalQueue."""
    cluster: int
    """In the ClusterQueue behind it, which other LocalQueues may share."""


def queue_of(job: Object) -> str:
    """Return the LocalQueue that a Job waits in; empty if it is in none."""
    return str((job["metadata"].get("labels") or {}).get(keys.QUEUE_LABEL, ""))


def places(summary: Object) -> dict[str, Place]:
    """Return the place of each Workload, by name, from a ``PendingWorkloadsSummary`` of a LocalQueue.

    Kueue counts from 0, and writes that 0: where a position is missing, the place is not known.

    https://kueue.sigs.k8s.io/docs/tasks/manage/monitor_pending_workloads/pending_workloads_on_demand/
    """
    found = {}
    for item in summary.get("items") or ():
        local, cluster = item.get("positionInLocalQueue"), item.get("positionInClusterQueue")
        if local is not None and cluster is not None:
            found[item["metadata"]["name"]] = Place(int(local) + 1, int(cluster) + 1)
    return found


def why_queued(stage: str, queue: str, workload: Object, place: Place | None = None) -> Waiting:
    """Return why a Job that is suspended does not run.

    Args:
        stage: what it makes, or looks up.
        queue: the LocalQueue that its label names.
        workload: the Job's.
        place: its place among those that wait, if that is known.
    """
    conditions = {item["type"]: item for item in (workload.get("status") or {}).get("conditions") or ()}
    if (given_up := _given_up(workload, conditions)) is not None:
        return Waiting(INADMISSIBLE, given_up)
    reserved = conditions.get("QuotaReserved", {})
    if _holds(conditions, "Admitted"):
        return Waiting(QUEUED, f"LocalQueue {queue!r} has admitted {stage}; it is about to start")
    if _holds(conditions, "QuotaReserved"):
        return Waiting(QUEUED, f"LocalQueue {queue!r} has room for {stage}{_unpassed_checks(workload)}")
    message = _message(reserved)
    if reserved.get("reason") == INADMISSIBLE:
        return Waiting(INADMISSIBLE, f"LocalQueue {queue!r} cannot admit {stage}: {message}")
    return Waiting(QUEUED, f"{stage} {_waits(queue, conditions, message, place)}")


def no_kueue(stage: str, queue: str) -> Waiting:
    """Return what is said where nothing serves Kueue's API."""
    return Waiting(
        INADMISSIBLE,
        f"nobody admits {stage} to LocalQueue {queue!r}: there is no Kueue in this cluster. "
        "Install it, or remove `spec.scheduling.queueName`",
    )


def no_workload(queue: str) -> Waiting:
    """Return what is said of a Job that Kueue has taken no notice of, though it had the time to."""
    return Waiting(
        INADMISSIBLE,
        f"Kueue has made no Workload for LocalQueue {queue!r} of the Job. "
        "Is Kueue's controller running, and is `batch/job` among its integrations?",
    )


def _given_up(workload: Object, conditions: Mapping[str, Object]) -> str | None:
    """Return why Kueue will do nothing more about a Workload by itself."""
    name = workload["metadata"]["name"]
    if _holds(conditions, "Finished"):
        return f"Kueue has given Workload {name} up: {_message(conditions['Finished'])}"
    if workload["spec"].get("active") is False:
        why = f" ({_message(conditions['Evicted'])})" if _holds(conditions, "Evicted") else ""
        return f"Workload {name} is not active{why}. It is queued again when its `spec.active` is true"
    return None


def _unpassed_checks(workload: Object) -> str:
    checks = (workload.get("status") or {}).get("admissionChecks") or ()
    left = [f"{check['name']} ({check['state']})" for check in checks if check.get("state") != "Ready"]
    return f"; admission checks that it has not passed: {', '.join(left)}" if left else ""


def _waits(queue: str, conditions: Mapping[str, Object], message: str, place: Place | None) -> str:
    where = f"waits in LocalQueue {queue!r}"
    if place is not None:
        where += f", place {place.local} there and {place.cluster} in its ClusterQueue"
    if _holds(conditions, "Evicted"):
        evicted = _message(conditions["Evicted"])
        where = f"was taken back by the queue ({evicted}) and {where}"
        message = "" if message == evicted else message
    return where + (f": {message}" if message else "")


def _holds(conditions: Mapping[str, Object], kind: str) -> bool:
    return conditions.get(kind, {}).get("status") == "True"


def _message(condition: Object) -> str:
    return str(condition.get("message", "")).strip().rstrip(".")
