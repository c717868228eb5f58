"""What there is on the cluster, as values: a child Job with its Pods and Events becomes one :class:`ObservedJob`.

Everything that a Pod can say about why it does not run, or why it ended, is read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tunesmith.api import keys
from tunesmith.core.manifests.child import STAGE_CONTAINER
from tunesmith_stages.contract import ExitCode, Failure, Report, StageName

Object = Mapping[str, Any]


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
    """The Pod whose log tells the progress, once its program runs."""
    started: str = ""
    finished: str = ""
    manifest: str = ""
    """Digest of all that it was made from."""
    out_of_time: bool = False
    """Its Pod has reached the end of the time that it was given."""

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
    report = _report(leader)
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
        failure=_failure(job, everyone, report) if failed else None,
        interrupted=failed and _was_interrupted(job, everyone, report),
        waiting=_waiting(job, everyone, events) if phase in {Phase.PENDING, Phase.QUEUED} else None,
        pod=leader["metadata"]["name"] if leader and phase is Phase.RUNNING else "",
        started=_started(leader),
        finished=_finished(leader) or status.get("completionTime") or "",
        manifest=notes.get(keys.MANIFEST_ANNOTATION, ""),
        out_of_time=failed and _is_out_of_time(everyone),
    )


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
    if job["metadata"].get("deletionTimestamp"):
        return Phase.DELETING
    conditions = _conditions(job)
    if "Complete" in conditions:
        return Phase.SUCCEEDED
    if "Failed" in conditions:
        return Phase.FAILED
    if report is not None and report.failure is None and _exit_code(leader) == 0:
        return Phase.SUCCEEDED  # the result is there; what Kubernetes still does to the Job need not be waited for
    if job["spec"].get("suspend"):
        return Phase.QUEUED
    if leader is None or leader["metadata"].get("deletionTimestamp") or _pod_phase(leader) != "Running":
        return Phase.PENDING
    return Phase.PENDING if any(_pod_phase(pod) == "Pending" for pod in pods) else Phase.RUNNING


def _pod_phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _conditions(item: Object) -> dict[str, Object]:
    found = (item.get("status") or {}).get("conditions") or ()
    return {condition["type"]: condition for condition in found if condition.get("status") == "True"}


# --- what the program said, and how it ended -------------------------------------------------------------------------


def _container(pod: Object | None) -> Object:
    """Return the state of the container of ours: a service mesh may have put others beside it."""
    statuses = ((pod or {}).get("status") or {}).get("containerStatuses") or ()
    return next((status for status in statuses if status.get("name") == STAGE_CONTAINER), {})


def _terminated(pod: Object | None) -> Object:
    return (_container(pod).get("state") or {}).get("terminated") or {}


def _exit_code(pod: Object | None) -> int | None:
    code = _terminated(pod).get("exitCode")
    return int(code) if code is not None else None


def _report(pod: Object | None) -> Report | None:
    try:
        return Report.from_json(_terminated(pod)["message"])
    except (KeyError, ValueError, TypeError):
        return None


def _started(pod: Object | None) -> str:
    running = (_container(pod).get("state") or {}).get("running") or {}
    return str(running.get("startedAt") or _terminated(pod).get("startedAt") or "")


def _finished(pod: Object | None) -> str:
    return str(_terminated(pod).get("finishedAt") or "")


_EVICTED = frozenset(
    {"Evicted", "NodeLost", "NodeShutdown", "Preempting", "Terminated", "Shutdown", "UnexpectedAdmissionError"}
)
_OUT_OF_TIME = "DeadlineExceeded"
"""Reason of a Pod that has reached its `activeDeadlineSeconds`."""
_SIGKILL, _SIGTERM = 128 + 9, 128 + 15


def _is_out_of_time(pods: Sequence[Object]) -> bool:
    return any((pod.get("status") or {}).get("reason") == _OUT_OF_TIME for pod in pods)


def _was_interrupted(job: Object, pods: Sequence[Object], report: Report | None) -> bool:
    if _is_out_of_time(pods):
        return True
    if report is not None and report.failure is not None and report.failure.code is not ExitCode.INTERRUPTED:
        return any("DisruptionTarget" in _conditions(pod) for pod in pods)
    if report is not None and report.failure is not None:
        return True
    failed = _conditions(job).get("Failed", {})
    if failed.get("reason") == "PodFailurePolicy" and "DisruptionTarget" in str(failed.get("message")):
        return True
    return any(
        "DisruptionTarget" in _conditions(pod)
        or (pod.get("status") or {}).get("reason") in _EVICTED
        or _exit_code(pod) in {ExitCode.INTERRUPTED, _SIGTERM}
        for pod in pods
    )


def _failure(job: Object, pods: Sequence[Object], report: Report | None) -> Failure:
    """Return the best known cause of a Job's failure: the program's own words before anybody else's."""
    failed = _conditions(job).get("Failed", {})
    if report is not None and report.failure is not None:
        return report.failure
    for pod in reversed(pods):
        said = _report(pod)
        if said is not None and said.failure is not None:
            return said.failure
    for pod in reversed(pods):
        if (ended := _terminated(pod)) and ended.get("exitCode") != 0:
            return _failure_of_container(ended)
    return Failure(
        ExitCode.INTERRUPTED,
        "Interrupted",
        f"the Job failed ({failed.get('reason', 'unknown')}: {failed.get('message', '')}) and its Pods are gone",
        "It is tried again.",
    )


def _failure_of_container(ended: Object) -> Failure:
    code, reason = int(ended.get("exitCode", 1)), str(ended.get("reason", ""))
    if reason == "OOMKilled":
        return Failure(
            ExitCode.OUT_OF_MEMORY,
            "OutOfMemory",
            "the container was killed because it reached its memory limit",
            "Raise `spec.pods.<stage>.resources.limits.memory`, or use smaller batches or shorter sequences.",
        )
    if reason in {"StartError", "ContainerCannotRun"}:
        return Failure(
            ExitCode.BAD_CONFIG,
            "ContainerCannotRun",
            f"the container did not start: {str(ended.get('message', ''))[:500]}",
            "Check the stage image and `spec.pods`.",
        )
    if code == _SIGKILL:
        return Failure(ExitCode.TEMPORARY, "Killed", "the program was killed (signal 9)", "It is tried again.")
    return Failure.from_exit_code(code)


# --- why nothing runs ------------------------------------------------------------------------------------------------

NO_IMAGE = "ImagePullBackOff"
"""Reason while a node cannot get the image."""
NOTHING_YET = Waiting("Pending", "its Pod is being created or started")
"""What is said as long as nothing tells why nothing runs."""
_OVER = frozenset({"Succeeded", "Failed"})
_QUEUED = Waiting("Queued", "the queue has not admitted the training yet")


def _waiting(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> Waiting:
    if job["spec"].get("suspend"):
        queue = (job["metadata"].get("labels") or {}).get(keys.QUEUE_LABEL, "")
        return Waiting("Queued", f"the queue {queue!r} has not admitted the training yet") if queue else _QUEUED
    alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp") and _pod_phase(pod) not in _OVER]
    if not alive:
        return _refused(events) or _still_ending(pods) or NOTHING_YET
    found = [waiting for pod in alive if (waiting := waiting_of_pod(pod, events)) is not None]
    return found[0] if found else NOTHING_YET


def _still_ending(pods: Sequence[Object]) -> Waiting | None:
    """Return that a Pod must end before another takes its place."""
    for pod in pods:
        if _pod_phase(pod) in {"Pending", "Running", "Unknown"}:
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
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("status") == "False":
            return _unscheduled(str(condition.get("reason", "")), str(condition.get("message", "")))
    held_up = (_container(pod).get("state") or {}).get("waiting") or {}
    reason, message = str(held_up.get("reason", "")), str(held_up.get("message", ""))
    if reason in {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}:
        return Waiting(NO_IMAGE, f"{_container(pod).get('image', '')}: {message or reason}")
    if reason == "CreateContainerConfigError":
        return Waiting("ContainerConfigInvalid", message)
    if reason and reason not in {"ContainerCreating", "PodInitializing"}:
        return Waiting(reason, message)
    return _not_mounted(pod, events)


def _unscheduled(reason: str, message: str) -> Waiting:
    if reason == "SchedulingGated":
        return Waiting("Queued", message)
    if "persistentvolumeclaim" in message and "not found" in message:
        return Waiting("VolumeClaimNotFound", message)
    return Waiting("Unschedulable", message)


def _refused(events: Sequence[Object]) -> Waiting | None:
    """Return why the Job's controller could not create its Pod: only its Events tell."""
    messages = [str(event.get("message", "")) for event in events if event.get("reason") == "FailedCreate"]
    if not messages:
        return None
    message = messages[-1]
    if "exceeded quota" in message or "failed quota" in message:
        return Waiting("QuotaExceeded", message)
    if "violates PodSecurity" in message:
        return Waiting("PodSecurityRefused", message)
    if "serviceaccount" in message.lower() and "not found" in message:
        return Waiting("ServiceAccountNotFound", message)
    return Waiting("PodsForbidden", message)


def _not_mounted(pod: Object, events: Sequence[Object]) -> Waiting | None:
    name = pod["metadata"]["name"]
    for event in reversed(events):
        about = (event.get("involvedObject") or event.get("regarding") or {}).get("name")
        if about == name and event.get("reason") in {"FailedMount", "FailedAttachVolume"}:
            return Waiting("VolumeNotMounted", str(event.get("message", "")))
    return None
