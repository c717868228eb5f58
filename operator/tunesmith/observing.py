"""What the operator sees of the child Jobs of one FineTuneJob: from the cache, and from the API where that lacks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from tunesmith.api.status import State
from tunesmith.core.decide import Subject
from tunesmith.core.observe import NOTHING_YET, ObservedJob, Phase, created, newest_pods, observe_job
from tunesmith.core.record import ACTIVE, read_records
from tunesmith.core.times import seconds_between, to_text
from tunesmith.kube.cache import Cache
from tunesmith.kube.cluster import EVENTS, JOBS, PODS, Cluster, Object
from tunesmith.kube.items import Key

_EVENTS_AFTER = 3.0
"""Seconds that a Job may have nothing running before its Events are read to learn why."""
_PENDING_POLL = 15.0
_CONTROLLER_LABEL = "batch.kubernetes.io/controller-uid"
"""Kubernetes gives it to the Pods of a Job, with the Job's uid."""


class Observer:
    """Sees child Jobs."""

    def __init__(self, cluster: Cluster, cache: Cache, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._cache = cache
        self._now = now
        self._asked: dict[Key, set[str]] = {}  # Jobs, by uid, whose Pods have been asked for after their end

    async def observe(self, key: Key, subject: Subject) -> tuple[list[ObservedJob], float | None]:
        """Return the child Jobs, the newest attempts first, and the seconds until they must be looked at again."""
        await self._find_missing(subject)
        jobs = self._cache.jobs_of(subject.namespace, subject.uid)
        self._asked[key] = {job["metadata"]["uid"] for job in jobs} & self._asked.get(key, set())
        waits: list[float] = []
        observed = []
        for job in jobs:
            seen = observe_job(job, self._cache.pods_of(job))
            if seen is None:
                continue
            if seen.phase in {Phase.SUCCEEDED, Phase.FAILED} and await self._catch_up(key, job):
                seen = observe_job(job, self._cache.pods_of(job)) or seen
            if seen.phase is Phase.PENDING:
                seen, wait = await self._why_pending(job, seen)
                waits.append(wait)
            observed.append(seen)
        return observed, min(waits, default=None)

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a FineTuneJob."""
        self._asked.pop(key, None)

    async def _find_missing(self, subject: Subject) -> None:
        """Look at the API for a child Job that should be there and is not in the cache: it may only be late."""
        for record in read_records(subject.status).values():
            if record.state not in ACTIVE or record.state is State.UNKNOWN or not record.job:
                continue
            if self._cache.job(subject.namespace, subject.uid, record.job) is None:
                found = await self._cluster.get(JOBS, subject.namespace, record.job)
                if found is not None:
                    self._cache.put_job(found)

    async def _catch_up(self, key: Key, job: Object) -> bool:
        """Ask once for the Pods of a Job that ended, if the end of the one that reports was not heard of yet.

        Jobs and Pods come over different connections: without this, a result would count as lost, or a failure as
        one that nobody explains. Tells whether the Pods were asked for.
        """
        uid = job["metadata"]["uid"]
        if uid in self._asked[key] or self._has_ended(job):
            return False
        self._asked[key].add(uid)
        namespace = job["metadata"]["namespace"]
        for pod in await self._cluster.find(PODS, namespace, labels=f"{_CONTROLLER_LABEL}={uid}"):
            self._cache.put_pod(pod)
        return True

    def _has_ended(self, job: Object) -> bool:
        """Tell whether the newest Pods of a Job that ended are known to have ended as well: that of each index."""
        newest = newest_pods(self._cache.pods_of(job))
        phases = [pod["status"].get("phase") for pod in newest.values()]
        conditions = job["status"].get("conditions") or ()
        complete = any(item["type"] == "Complete" and item["status"] == "True" for item in conditions)
        if len(newest) < job["spec"]["completions"]:
            return False
        return set(phases) <= ({"Succeeded"} if complete else {"Succeeded", "Failed"})

    async def _why_pending(self, job: Object, seen: ObservedJob) -> tuple[ObservedJob, float]:
        """Return a pending Job with what its Events tell, if its Pods tell nothing."""
        if seen.waiting != NOTHING_YET:
            return seen, _PENDING_POLL
        age = seconds_between(job["metadata"].get("creationTimestamp", ""), to_text(self._now()))
        if age < _EVENTS_AFTER:
            return seen, _EVENTS_AFTER - age + 0.5
        pods = self._cache.pods_of(job)
        about = max(pods, key=created) if pods else job
        namespace, uid = job["metadata"]["namespace"], about["metadata"]["uid"]
        events = await self._cluster.find(EVENTS, namespace, fields=f"involvedObject.uid={uid}")
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return observe_job(job, pods, events) or seen, _PENDING_POLL
