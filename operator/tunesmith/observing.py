"""What the operator sees of the child Jobs of one FineTuneJob: from the cache, and from the API where that lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from tunesmith.api.status import State
from tunesmith.core.decide import Subject
from tunesmith.core.observe import NOTHING_YET, ObservedJob, Phase, Waiting, created, newest_pods, observe_job
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
_EVENTS_SHARE = 0.25
"""Seconds that a reading of Events stands for: to find those of one object the API server reads all of the namespace.
Where hundreds of Jobs wait for their Pods, each is asked about less often."""
_PENDING_POLL = 15.0
_UNHEARD_POLL = 15.0
_CONTROLLER_LABEL = "batch.kubernetes.io/controller-uid"
"""Kubernetes gives it to the Pods of a Job, with the Job's uid."""


@dataclass
class _Silent:
    """What does not tell itself why it waits: a Job without Pods, or the Pod of one."""

    since: float
    """When its Events were read last, or when it was created."""
    every: float = _EVENTS_AFTER
    waiting: Waiting | None = NOTHING_YET
    """What they told."""


class Observer:
    """Sees child Jobs."""

    def __init__(self, cluster: Cluster, cache: Cache, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._cache = cache
        self._now = now
        self._queued = QueuedJobs(cluster, now)
        self._silent: dict[Key, dict[str, _Silent]] = {}  # and by uid
        self._asked: dict[Key, set[str]] = {}  # Jobs, by uid, whose Pods have been asked for after their end

    async def observe(self, key: Key, subject: Subject) -> tuple[list[ObservedJob], float | None]:
        """Return the child Jobs, the newest attempts first, and the seconds until they must be looked at again."""
        await self._find_missing(subject)
        jobs = self._cache.jobs_of(subject.namespace, subject.uid)
        self._asked[key] = {job["metadata"]["uid"] for job in jobs} & self._asked.get(key, set())
        waits = [_UNHEARD_POLL for job in jobs if not job["watched"]]
        queued: set[str] = set()
        silent: dict[str, _Silent] = {}
        observed = []
        for job in jobs:
            seen = observe_job(job, self._cache.pods_of(job))
            if seen is None:
                continue
            if seen.phase in {Phase.SUCCEEDED, Phase.FAILED} and await self._catch_up(key, job):
                seen = observe_job(job, self._cache.pods_of(job)) or seen
            if seen.phase is Phase.PENDING:
                wait = _PENDING_POLL
                if seen.waiting == NOTHING_YET:
                    about = self._newest_of(job)
                    uid = about["metadata"]["uid"]
                    known = self._silent.get(key, {}).get(uid) or _Silent(self._born(about))
                    silent[uid], wait = await self._ask_events(about, job, known)
                    seen = replace(seen, waiting=silent[uid].waiting)
                waits.append(wait)
            elif seen.phase is Phase.QUEUED and queue_of(job):
                queued.add(job["metadata"]["uid"])
                waiting, wait = await self._queued.why(key, job, seen.stage)
                seen = replace(seen, waiting=waiting or seen.waiting)
                waits.append(wait)
            observed.append(seen)
        self._queued.keep(key, queued)
        self._silent.pop(key, None)
        if silent:
            self._silent[key] = silent
        return observed, min(waits, default=None)

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a FineTuneJob."""
        self._asked.pop(key, None)
        self._silent.pop(key, None)
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

    def _newest_of(self, job: Object) -> Object:
        return max(self._cache.pods_of(job), key=created, default=job)

    def _born(self, item: Object) -> float:
        return (to_time(item["metadata"].get("creationTimestamp", "")) or self._now()).timestamp()

    async def _ask_events(self, about: Object, job: Object, known: _Silent) -> tuple[_Silent, float]:
        """Read the Events of a pending Job, or of its Pod, if it is time; return what is known then, and when next."""
        now = self._now().timestamp()
        every, age = max(known.every, _EVENTS_SHARE * len(self._silent)), now - known.since
        if abs(age) < every:  # whose clock is further behind the API server's does not wait until it is not
            return known, min(every - age, _PENDING_POLL) + 0.5
        meta = about["metadata"]
        events = await self._cluster.find(EVENTS, meta["namespace"], fields=f"involvedObject.uid={meta['uid']}")
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        seen = observe_job(job, self._cache.pods_of(job), events)
        return _Silent(now, _PENDING_POLL, seen.waiting if seen is not None else NOTHING_YET), _PENDING_POLL
