"""What the operator sees of the child Jobs of one FineTuneJob: from the cache, and from the API where that lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from tunesmith.api.status import State
from tunesmith.core.decide import Subject
from tunesmith.core.observe import NOTHING_YET, ObservedJob, Phase, created, newest_pods, observe_job
from tunesmith.core.queueing import queue_of
from tunesmith.core.record import ACTIVE
from tunesmith.core.times import to_time
from tunesmith.kube.cache import Cache
from tunesmith.kube.cluster import EVENTS, JOBS, PODS, Cluster, Object
from tunesmith.kube.items import Key
from tunesmith.queued_jobs import QueuedJobs

_EVENTS_AFTER = 3.0
"""Seconds that a Job may have nothing running before its Events are read to learn why."""
FIRST_LOOK = _EVENTS_AFTER + 0.5
"""Seconds after its creation when a Job must be looked at: nothing may ever be heard of one that gets no Pod."""
_PENDING_POLL = 15.0
_UNHEARD_POLL = 15.0
_CONTROLLER_LABEL = "batch.kubernetes.io/controller-uid"
"""Kubernetes gives it to the Pods of a Job, with the Job's uid."""


class Observer:
    """Sees child Jobs."""

    def __init__(self, cluster: Cluster, cache: Cache, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._cache = cache
        self._now = now
        self._queued = QueuedJobs(cluster, now)
        self._asked: dict[Key, set[str]] = {}  # Jobs, by uid, whose Pods have been asked for after their end

    async def observe(self, key: Key, subject: Subject) -> tuple[list[ObservedJob], float | None]:
        """Return the child Jobs, the newest attempts first, and the seconds until they must be looked at again."""
        await self._find_missing(subject)
        jobs = self._cache.jobs_of(subject.namespace, subject.uid)
        self._asked[key] = {job["metadata"]["uid"] for job in jobs} & self._asked.get(key, set())
        waits = [_UNHEARD_POLL for job in jobs if not job["watched"]]
        queued: set[str] = set()
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
            elif seen.phase is Phase.QUEUED and queue_of(job):
                queued.add(job["metadata"]["uid"])
                waiting, wait = await self._queued.why(key, job)
                seen = replace(seen, waiting=waiting or seen.waiting)
                waits.append(wait)
            observed.append(seen)
        self._queued.keep(key, queued)
        return observed, min(waits, default=None)

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a FineTuneJob."""
        self._asked.pop(key, None)
        self._queued.keep(key, ())

    async def _find_missing(self, subject: Subject) -> None:
        """Ask the API how child Jobs stand of which no event may tell: they are late, or somebody took their label."""
        known = {job["metadata"]["name"]: job for job in self._cache.jobs_of(subject.namespace, subject.uid)}
        records = subject.records.values()
        awaited = {record.job for record in records if record.state in ACTIVE and record.state is not State.UNKNOWN}
        unheard = {name for name, job in known.items() if not job["watched"]}
        for name in sorted((awaited - known.keys() | unheard) - {""}):
            found = await self._cluster.get(JOBS, subject.namespace, name)
            if found is not None:
                self._cache.put_job(found)
            elif name in known:
                self._cache.drop_job(known[name])

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
        born = to_time(job["metadata"].get("creationTimestamp", "")) or self._now()
        age = (self._now() - born).total_seconds()
        if abs(age) < _EVENTS_AFTER:  # whose clock is further behind the API server's does not wait until it is not
            return seen, FIRST_LOOK - age
        pods = self._cache.pods_of(job)
        about = max(pods, key=created) if pods else job
        namespace, uid = job["metadata"]["namespace"], about["metadata"]["uid"]
        events = await self._cluster.find(EVENTS, namespace, fields=f"involvedObject.uid={uid}")
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return observe_job(job, pods, events) or seen, _PENDING_POLL
