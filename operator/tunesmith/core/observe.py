"""What there is on the cluster, as values: a child Job with its Pods and Events becomes one :class:`ObservedJob`.

Why a Pod does not run is read here, why it ended in :mod:`.endings`, and nowhere else. What the words that stand there
mean is in the table of reasons (:mod:`tunesmith_stages.reasons`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tunesmith.api import keys
from tunesmith.core.endings import failure_of, is_out_of_time, was_interrupted
from tunesmith.core.pod_state import (
    Object,
    conditions_of,
    container_of,
    exit_code,
    finished_at,
    held_up,
    pod_phase,
    report_of,
    started_at,
    status_of,
)
from tunesmith_stages.contract import Failure, Report, StageName
from tunesmith_stages.reasons import recognised
from tunesmith_stages.reasons.row import Reason, Where
from tunesmith_stages.reasons.waiting import NO_IMAGE as NO_IMAGE_ROW


class Phase(StrEnum):
    """Where a Kubernetes Job stands."""

    QUEUED = "Queued"
    """It is suspended: a queue has not admitted it."""
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    DELETING = "Deleting"
    """It goes away; its Pods may still be ending."""


@dataclass(frozen=True)
class Waiting:
    """Why nothing runs."""

    reason: str
    message: str


@dataclass(frozen=True)
class ObservedJob:
    """A child Job as it is now."""

    name: str
    stage: StageName
    keys: tuple[str, ...]
    attempt: int
    lookup: bool
    phase: Phase
    report: Report | None = None
    """What its program reported; None if it has not, or if it cannot be read any more."""
    failure: Failure | None = None
    """Why it failed."""
    interrupted: bool = False
    """It was ended from outside: evicted, preempted, its node lost."""
    waiting: Waiting | None = None
    pod: str = ""
    """The Pod whose log tells the progress, once its program runs, or why it failed."""
    log_tail: str = ""
    """The last lines of that log, once it has failed."""
    started: str = ""
    finished: str = ""
    manifest: str = ""
    """Digest of all that it was made from."""
    out_of_time: bool = False
    """Its Pod has reached the end of the time that it was given."""
    deadline: int | None = None
    """Seconds that each of its Pods was given."""

    @property
    def attempt_id(self) -> tuple[StageName, tuple[str, ...], int]:
        """Which attempt at what it is, or looks up: compares with ``StageRecord.attempt_id``."""
        return self.stage, self.keys, self.attempt


def observe_job(job: Object, pods: Iterable[Object], events: Sequence[Object] = ()) -> ObservedJob | None:
    """Return what `job` and its `pods` show, or None if the Job is not one that the operator made.

    Args:
        job: a Kubernetes Job.
        pods: the Pods that it owns.
        events: Events about it and its Pods, if they were asked for; they alone tell of quotas and failed mounts.
    """
    meta = job["metadata"]
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    try:
        stage, attempt = StageName(labels[keys.STAGE_LABEL]), int(labels[keys.ATTEMPT_LABEL])
    except (KeyError, ValueError):
        return None
    newest = newest_pods(pods)
    everyone = list(newest.values())
    leader = newest.get(0)
    report = report_of(leader)
    phase = _phase(job, everyone, leader, report)
    status = job.get("status") or {}
    failed = phase is Phase.FAILED
    return ObservedJob(
        name=meta["name"],
        stage=stage,
        keys=tuple(filter(None, notes.get(keys.KEYS_ANNOTATION, "").split(","))),
        attempt=attempt,
        lookup=notes.get(keys.LOOKUP_ANNOTATION) == "true",
        phase=phase,
        report=report,
        failure=failure_of(job, everyone, report) if failed else None,
        interrupted=failed and was_interrupted(job, everyone, report),
        waiting=_waiting(job, everyone, events) if phase in {Phase.PENDING, Phase.QUEUED} else None,
        pod=_pod_with_log(everyone, leader, phase),
        started=started_at(leader),
        finished=finished_at(leader) or status.get("completionTime") or "",
        manifest=notes.get(keys.MANIFEST_ANNOTATION, ""),
        out_of_time=failed and is_out_of_time(everyone),
        deadline=job.get("deadline"),
    )


def _pod_with_log(pods: Sequence[Object], leader: Object | None, phase: Phase) -> str:
    """Return the Pod whose log tells what its program does: of those that failed, the first one, which knows why."""
    if phase is Phase.RUNNING:
        return str(leader["metadata"]["name"]) if leader else ""
    failed = [pod for pod in (leader, *pods) if pod and exit_code(pod)] if phase is Phase.FAILED else []
    return str(failed[0]["metadata"]["name"]) if failed else ""


def index_of(pod: Object) -> int:
    """Return which of the Pods that work together it is."""
    notes = pod["metadata"].get("annotations") or {}
    return int(notes.get("batch.kubernetes.io/job-completion-index") or 0)


def newest_pods(pods: Iterable[Object]) -> dict[int, Object]:
    """Return the newest Pod of each index: what became of one that was replaced counts no longer."""
    return {index_of(pod): pod for pod in sorted(pods, key=created)}


def created(pod: Object) -> tuple[str, str]:
    """Return when a Pod was created, and its name: an order that is always the same."""
    return str(pod["metadata"].get("creationTimestamp", "")), str(pod["metadata"]["name"])


def _phase(job: Object, pods: Sequence[Object], leader: Object | None, report: Report | None) -> Phase:
    conditions = conditions_of(job)
    if "Complete" in conditions:
        return Phase.SUCCEEDED  # also if it goes away already: what it has made stays
    if job["metadata"].get("deletionTimestamp"):
        return Phase.DELETING
    if "Failed" in conditions:
        return Phase.FAILED
    if report is not None and report.failure is None and exit_code(leader) == 0:
        return Phase.SUCCEEDED  # the result is there; what Kubernetes still does to the Job need not be waited for
    if job["spec"].get("suspend"):
        return Phase.QUEUED
    if leader is None or leader["metadata"].get("deletionTimestamp") or pod_phase(leader) != "Running":
        return Phase.PENDING
    waits = any(pod_phase(pod) == "Pending" for pod in pods) or _is_kept_small(job, pods)
    return Phase.PENDING if waits else Phase.RUNNING


# --- why nothing runs ------------------------------------------------------------------------------------------------

NO_IMAGE = NO_IMAGE_ROW.name
"""Reason while a node cannot get the image."""
_NOT_CREATED = "FailedCreate"
_NOT_READ_YET = re.compile("failed to sync (configmap|secret) cache")
"""What a busy kubelet says of a ConfigMap or Secret that it has not read yet. Half a second later it tries again, and
says what is wrong if something is."""
_AS_IT_SHOULD = frozenset({"ContainerCreating", "PodInitializing"})
NOTHING_YET = Waiting("Pending", "its Pod is being created or started")
"""What is said as long as nothing tells why nothing runs."""
_OVER = frozenset({"Succeeded", "Failed"})
_SUSPENDED = Waiting("Queued", "its Job is suspended, and names no queue: what suspended it must let it go on")


def _waiting(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> Waiting:
    if job["spec"].get("suspend"):
        queue = (job["metadata"].get("labels") or {}).get(keys.QUEUE_LABEL, "")
        return Waiting("Queued", f"the queue {queue!r} has not admitted its Job yet") if queue else _SUSPENDED
    if _is_kept_small(job, pods):
        name, wanted = job["metadata"]["name"], job["spec"]["completions"]
        return Waiting(
            "ParallelismLowered",
            f"somebody set `spec.parallelism` of Job {name} to {job['spec']['parallelism']}: set it back to {wanted}, "
            "or delete the Job, then it is made anew",
        )
    alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp") and pod_phase(pod) not in _OVER]
    if not alive:
        return _refused(events) or _still_ending(pods) or NOTHING_YET
    found = [waiting for pod in alive if (waiting := waiting_of_pod(pod, events)) is not None]
    return found[0] if found else NOTHING_YET


def _is_kept_small(job: Object, pods: Sequence[Object]) -> bool:
    """Tell whether a Job has fewer Pods than it takes and makes no more, because somebody lowered how many it may have.

    We make it with as many at a time as it takes. A Pod that failed, or is being deleted, would be replaced.
    """
    takes = job["spec"]["completions"]
    there = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp") and pod_phase(pod) != "Failed"]
    return bool(job["spec"]["parallelism"] < takes and len(there) < takes)


def _still_ending(pods: Sequence[Object]) -> Waiting | None:
    """Return that a Pod must end before another takes its place."""
    for pod in pods:
        if pod_phase(pod) in {"Pending", "Running", "Unknown"}:
            node = (pod.get("status") or {}).get("hostIP", "unknown")
            return Waiting(
                "PodTerminating",
                f"Pod {pod['metadata']['name']} on the node with the address {node} has not ended yet. If that node "
                "is lost for good, delete the Node, or give it the taint "
                "`node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`",
            )
    return None


def waiting_of_pod(pod: Object, events: Sequence[Object] = ()) -> Waiting | None:
    """Return why a Pod does not run, as far as it, or one of the Events about it, tells."""
    for condition in status_of(pod).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("status") == "False":
            word, message = str(condition.get("reason", "")), str(condition.get("message", ""))
            return _named(recognised(Where.SCHEDULER, word, message), message)
    word, message = held_up(pod)
    if (row := recognised(Where.HELD_UP, word, message)) is NO_IMAGE_ROW:
        return _named(row, f"{container_of(pod).get('image', '')}: {message or word}")
    if row is not None:
        return _named(row, message)
    if word and word not in _AS_IT_SHOULD:
        return Waiting(word, message)
    name = pod["metadata"]["name"]
    about = (event for event in events if (event.get("involvedObject") or event.get("regarding") or {})["name"] == name)
    return _told_by([event for event in about if event.get("reason") != _NOT_CREATED])


def _named(row: Reason | None, message: str) -> Waiting | None:
    return None if row is None else Waiting(row.name, message)


def _refused(events: Sequence[Object]) -> Waiting | None:
    """Return why the Job's controller could not create its Pod: only its Events tell."""
    return _told_by([event for event in events if event.get("reason") == _NOT_CREATED])


def _told_by(events: Sequence[Object]) -> Waiting | None:
    """Return the newest reason that Events tell of, the oldest of which comes first."""
    for event in reversed(events):
        message = str(event.get("message", ""))
        if _NOT_READ_YET.search(message):
            continue
        row = recognised(Where.EVENT, str(event.get("reason", "")), message)
        if row is not None:
            return _named(row, message)
    return None
