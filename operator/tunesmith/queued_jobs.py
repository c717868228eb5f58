"""Where Jobs stand in Kueue's queues, read now and then: nothing of it is watched, and all of it may be missing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from tunesmith.core.observe import Waiting
from tunesmith.core.queueing import JOB_UID_LABEL, Place, no_kueue, no_workload, places, queue_of, why_queued
from tunesmith.core.times import seconds_between, to_text
from tunesmith.kube.cluster import PENDING_WORKLOADS, WORKLOADS, ApiError, Cluster, Object, Resource
from tunesmith.kube.items import Key

log = logging.getLogger(__name__)

_INTERVAL = 15.0
_SHARE = 0.1
"""Seconds that a reading stands for: with thousands of FineTuneJobs in queues, each is read less often."""
_FIRST_AFTER = 2.0
"""Seconds that Kueue has to make a Job's Workload before it is asked for."""
_OVERDUE = 30.0
"""Seconds without a Workload after which it is said that there is none."""


@dataclass
class _Known:
    """What was last read of a queued Job, and when it is to be read again."""

    due: float
    waiting: Waiting | None = None


class QueuedJobs:
    """The Jobs that wait in queues, by FineTuneJob."""

    def __init__(self, cluster: Cluster, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._now = now
        self._known: dict[Key, dict[str, _Known]] = {}  # and by the Job's uid
        self._places: dict[tuple[str, str], tuple[float, dict[str, Place]]] = {}  # by namespace and LocalQueue

    async def why(self, key: Key, job: Object, stage: str) -> tuple[Waiting | None, float]:
        """Return why a suspended Job of a stage waits in its queue, and the seconds until that is read again.

        None: it is not known, because it cannot be read, or not yet.
        """
        now = self._now().timestamp()
        known = self._known.setdefault(key, {})
        mine = known.get(job["metadata"]["uid"])
        if mine is None:
            age = seconds_between(job["metadata"].get("creationTimestamp", ""), to_text(self._now()))
            mine = known[job["metadata"]["uid"]] = _Known(now + max(0.0, _FIRST_AFTER - age))
        if mine.due <= now:
            mine.due = now + max(_INTERVAL, _SHARE * len(self._known))
            mine.waiting = await self._read(job, stage, mine.waiting)
        return mine.waiting, mine.due - now

    def keep(self, key: Key, uids: Collection[str]) -> None:
        """Drop what was read of Jobs of a FineTuneJob that wait no longer."""
        left = {uid: known for uid, known in self._known.pop(key, {}).items() if uid in uids}
        if left:
            self._known[key] = left

    async def _read(self, job: Object, stage: str, before: Waiting | None) -> Waiting | None:
        """Return what Kueue says of a Job; what it said before, if it cannot be asked now."""
        meta, queue = job["metadata"], queue_of(job)
        try:
            workloads = await self._workloads(meta["namespace"], meta["uid"])
        except ApiError as error:
            log.debug("the Workload of Job %s could not be read: %s", meta["name"], error)
            return before
        if workloads is None:
            return no_kueue(stage, queue)
        if not workloads:
            age = seconds_between(meta.get("creationTimestamp", ""), to_text(self._now()))
            return no_workload(queue) if age > _OVERDUE else before
        newest = max(workloads, key=lambda item: str(item["metadata"].get("creationTimestamp", "")))
        told = await self._places_in(meta["namespace"], queue)
        return why_queued(stage, queue, newest, told.get(newest["metadata"]["name"]))

    async def _workloads(self, namespace: str, uid: str) -> list[Object] | None:
        """Return the Workloads of a Job; None if nothing serves such a kind."""
        for resource in WORKLOADS:
            try:
                return await self._cluster.find(resource, namespace, labels=f"{JOB_UID_LABEL}={uid}")
            except ApiError as error:
                if error.status != 404:
                    raise
        return None

    async def _places_in(self, namespace: str, queue: str) -> dict[str, Place]:
        """Return the places in a LocalQueue, as they were at most some seconds ago; empty if nobody tells them."""
        now = self._now().timestamp()
        read, told = self._places.get((namespace, queue), (-_INTERVAL, {}))
        if now - read < _INTERVAL:
            return told
        self._places = {which: known for which, known in self._places.items() if now - known[0] < _INTERVAL}
        told = places(await self._summary(PENDING_WORKLOADS, namespace, queue) or {})
        self._places[namespace, queue] = (now, told)
        return told

    async def _summary(self, versions: tuple[Resource, ...], namespace: str, queue: str) -> Object | None:
        for resource in versions:
            try:
                found = await self._cluster.get(resource, namespace, queue)
            except ApiError as error:  # an administrator may have left this part of Kueue out, or it is starting
                log.debug("the places in LocalQueue %s could not be read: %s", queue, error)
                return None
            if found is not None:
                return found
        return None
