"""The parts of a Pod's or Job's status that tell how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.core.manifests.child import STAGE_CONTAINER
from tunesmith_stages.contract import Report

Object = Mapping[str, Any]


def status_of(item: Object) -> Object:
    """Return the status, empty if there is none yet."""
    return item.get("status") or {}


def pod_phase(pod: Object) -> str:
    """Return ``Pending``, ``Running``, ``Succeeded``, ``Failed`` or ``Unknown``."""
    return str(status_of(pod).get("phase", ""))


def conditions_of(item: Object) -> dict[str, Object]:
    """Return by type the conditions that hold."""
    found = status_of(item).get("conditions") or ()
    return {condition["type"]: condition for condition in found if condition.get("status") == "True"}


def has_ended(job: Object) -> bool:
    """Tell whether a Job is complete, or has failed for good."""
    return not {"Complete", "Failed"}.isdisjoint(conditions_of(job))


def container_of(pod: Object | None) -> Object:
    """Return the state of the container of ours: a service mesh may have put others beside it."""
    statuses = status_of(pod or {}).get("containerStatuses") or ()
    return next((status for status in statuses if status.get("name") == STAGE_CONTAINER), {})


def held_up(pod: Object) -> tuple[str, str]:
    """Return the word and the sentence with which the container waits."""
    waiting = (container_of(pod).get("state") or {}).get("waiting") or {}
    return str(waiting.get("reason", "")), str(waiting.get("message", ""))


def terminated(pod: Object | None) -> Object:
    """Return how the container ended; empty if it has not."""
    return (container_of(pod).get("state") or {}).get("terminated") or {}


def exit_code(pod: Object | None) -> int | None:
    """Return the exit code of the container, once it has ended."""
    code = terminated(pod).get("exitCode")
    return int(code) if code is not None else None


def report_of(pod: Object | None) -> Report | None:
    """Return what the program of a Pod reported; None if nothing that can be read."""
    try:
        return Report.from_json(terminated(pod)["message"])
    except (KeyError, ValueError, TypeError):
        return None


def started_at(pod: Object | None) -> str:
    """Return when the program began; empty if it has not.

    While it runs that is compared with other clocks than its node's, which may be behind: it did not begin before its
    Pod was created.
    """
    running = str(((container_of(pod).get("state") or {}).get("running") or {}).get("startedAt") or "")
    if running and pod is not None:
        return max(running, str(pod["metadata"].get("creationTimestamp") or ""))
    return str(terminated(pod).get("startedAt") or "")


def finished_at(pod: Object | None) -> str:
    """Return when the program ended; empty if it has not."""
    return str(terminated(pod).get("finishedAt") or "")
