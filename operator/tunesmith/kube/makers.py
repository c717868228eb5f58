"""Which Jobs and Pods are making which results now, and where: so that the same is never made twice at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from tunesmith.api import keys
from tunesmith.core.pod_state import has_ended
from tunesmith.kube.cluster import Object


class Work(NamedTuple):
    """A result that is being made: its content key, and the folder of the volume that it will lie in."""

    namespace: str
    claim: str
    sub_path: str
    unit: str


class Makers:
    """Children that have not ended, by what they make."""

    def __init__(self) -> None:
        self._by_work: dict[Work, dict[str, Object]] = defaultdict(dict)  # and by uid

    def change(self, before: Object | None, after: Object | None) -> set[Work]:
        """Take over that a child has changed (None: it is not there); return the work that it has left off."""
        was, now = _by_uid(before), _by_uid(after)
        for work, uid in was:
            self._by_work[work].pop(uid, None)
            if not self._by_work[work]:
                del self._by_work[work]
        for work, uid in now:
            if after is not None:
                self._by_work[work][uid] = after
        return {work for work, _ in was - now}

    def of(self, work: Work) -> list[Object]:
        """Return the Jobs and Pods that do that."""
        return list(self._by_work.get(work, {}).values())


def _by_uid(child: Object | None) -> set[tuple[Work, str]]:
    return {(work, child["metadata"]["uid"]) for work in works(child)} if child is not None else set()


def works(child: Mapping[str, Any]) -> set[Work]:
    """Return what a Job or Pod makes; nothing if it has ended, or only looks up what is there."""
    notes = child["metadata"].get("annotations") or {}
    if not _is_active(child) or notes.get(keys.LOOKUP_ANNOTATION) == "true":
        return set()
    namespace, (claim, sub_path) = child["metadata"]["namespace"], child["volume"]
    return {Work(namespace, claim, sub_path, unit) for unit in notes.get(keys.KEYS_ANNOTATION, "").split(",") if unit}


def _is_active(child: Mapping[str, Any]) -> bool:
    """Tell whether a Job or Pod has not ended. A Job that is being deleted does nothing: its Pods may."""
    if child["pod"]:
        return child["status"].get("phase") not in {"Succeeded", "Failed"}
    return not has_ended(child) and not child["metadata"].get("deletionTimestamp")
