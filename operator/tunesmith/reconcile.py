"""Brings one FineTuneJob a step further: has `decide` say what to do, does it, and writes the status."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from tunesmith import metrics
from tunesmith.api import keys
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.parse import InvalidJobError, parse_object
from tunesmith.api.settings import Settings
from tunesmith.api.status import State
from tunesmith.core import policy
from tunesmith.core.conditions import Note, invalid_status, next_status, notes
from tunesmith.core.decide import Draft, Subject, World, decide, is_settled
from tunesmith.core.observe import NOTHING_YET, ObservedJob, Phase, observe_job
from tunesmith.core.progress import checkpoint_seconds, read_progress
from tunesmith.core.record import ACTIVE, read_records
from tunesmith.core.times import seconds_between, to_text
from tunesmith.kube.cache import Cache, Key, claims
from tunesmith.kube.cluster import CONFIG_MAPS, EVENTS, FINETUNEJOBS, JOBS, SERVICES, ApiError, Cluster, Object
from tunesmith_stages.contract import StageName

log = logging.getLogger(__name__)

_EVENTS_AFTER = 3.0
"""Seconds that a Job may have nothing running before its Events are read to learn why."""
_PENDING_POLL = 15.0
_LOG_INTERVAL = 10.0
_LOG_LINES = 40
_LONGEST_LOG_INTERVAL = 300.0
_REFUSED_POLL = 15.0
_MAX_ANNOTATION = 1024
"""Characters of an annotation that the status remembers."""
AT_ONCE = 0.0


@dataclass
class _Log:
    """What was last read of a running program's log."""

    pod: str
    read: float
    interval: float = _LOG_INTERVAL
    text: str = ""


class Reconciler:
    """Looks at FineTuneJobs, one at a time for each; keeps nothing that it could not read again."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        settings: Settings,
        *,
        now: Callable[[], datetime],
        tell: Callable[[Object, Note], None],
    ) -> None:
        """`tell` is given the Events to be told about a FineTuneJob."""
        self._cluster = cluster
        self._cache = cache
        self._settings = settings
        self._now = now
        self._tell = tell
        self._parsed: dict[Key, tuple[str, int, FineTuneJob, tuple[str, ...]]] = {}
        self._logs: dict[Key, _Log] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Bring a FineTuneJob a step further; return the seconds until it must be looked at again, if it must.

        Raises:
            ApiError: the API server could not be asked, or is overloaded.
        """
        item = self._cache.finetunejobs.get(key)
        if item is None or item["metadata"].get("deletionTimestamp"):
            self._parsed.pop(key, None)
            self._logs.pop(key, None)
            return None
        try:
            job, warnings = self._parse(key, item)
        except InvalidJobError as error:
            return await self._refuse(item, error)
        subject = _subject(job, item)
        if is_settled(subject):
            return None
        world, wake = await self._observe(key, item, subject)
        draft = decide(subject, world, self._settings, self._now())
        if (draft.create or draft.delete) and not await self._is_current(key, item):
            return AT_ONCE
        refused = await self._act(item, draft)
        if refused is not None:
            draft.waits_for = refused
            draft.records = {**draft.records, **_not_started(draft)}
            wake = _soonest(wake, _REFUSED_POLL)
        status = next_status(draft, self._progress(key), warnings)
        written = await self._write(item, status)
        return AT_ONCE if not written else _soonest(wake, draft.wake_after)

    def _parse(self, key: Key, item: Object) -> tuple[FineTuneJob, tuple[str, ...]]:
        uid, generation = item["metadata"]["uid"], int(item["metadata"].get("generation", 1))
        known = self._parsed.get(key)
        if known is not None and known[:2] == (uid, generation):
            return known[2], known[3]
        whole = {"apiVersion": FINETUNEJOBS.api_version, "kind": FINETUNEJOBS.kind, **item}
        job, warnings = parse_object({name: whole[name] for name in ("apiVersion", "kind", "metadata", "spec")})
        self._parsed[key] = (uid, generation, job, tuple(warnings))
        return job, tuple(warnings)

    async def _refuse(self, item: Object, error: InvalidJobError) -> float | None:
        message = "; ".join(str(problem) for problem in error.problems)
        generation = int(item["metadata"].get("generation", 1))
        before = item.get("status") or {}
        written = await self._write(item, invalid_status(before, generation, "InvalidSpec", message, self._now()))
        return None if written else AT_ONCE

    # --- what is there

    async def _observe(self, key: Key, item: Object, subject: Subject) -> tuple[World, float | None]:
        await self._find_missing(subject)
        wake: float | None = None
        observed = []
        for job in self._cache.jobs_of(subject.uid):
            pods = self._cache.pods_of(subject.uid, job)
            seen = observe_job(job, pods)
            if seen is None:
                continue
            if seen.phase is Phase.PENDING:
                seen, wait = await self._why_pending(job, pods, seen)
                wake = _soonest(wake, wait)
            observed.append(seen)
        running = next((job for job in observed if job.phase is Phase.RUNNING and not job.lookup), None)
        if running is not None:
            wake = _soonest(wake, await self._read_log(key, running))
        world = World(
            jobs=tuple(observed),
            made_elsewhere=partial(self._cache.made_elsewhere, subject.namespace, subject.uid),
            obstacle=policy.obstacle(subject.job, subject.namespace, self._settings) or self._rival(item),
            save_seconds=checkpoint_seconds(self._logs[key].text) if key in self._logs else 0,
        )
        return world, wake

    async def _find_missing(self, subject: Subject) -> None:
        """Look at the API for a child Job that should be there and is not in the cache: it may only be late."""
        for record in read_records(subject.status).values():
            late = record.state in ACTIVE and record.job and not self._cache.has_job(subject.uid, record.job)
            if late and record.state is not State.UNKNOWN:
                found = await self._cluster.get(JOBS, subject.namespace, record.job)
                if found is not None:
                    self._cache.put_job(found)

    async def _why_pending(self, job: Object, pods: list[Object], seen: ObservedJob) -> tuple[ObservedJob, float]:
        """Return a pending Job with what its Events tell, if its Pods tell nothing."""
        if seen.waiting != NOTHING_YET:
            return seen, _PENDING_POLL
        age = seconds_between(job["metadata"].get("creationTimestamp", ""), to_text(self._now()))
        if age < _EVENTS_AFTER:
            return seen, _EVENTS_AFTER - age + 0.5
        about = pods[-1] if pods else job
        namespace, uid = job["metadata"]["namespace"], about["metadata"]["uid"]
        events = await self._cluster.find(EVENTS, namespace, fields=f"involvedObject.uid={uid}")
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return observe_job(job, pods, events) or seen, _PENDING_POLL

    async def _read_log(self, key: Key, job: ObservedJob) -> float:
        """Read the last lines of a running program, at most every ten seconds; less often where that fails."""
        now = self._now().timestamp()
        known = self._logs.get(key)
        if known is None or known.pod != job.pod:
            known = self._logs[key] = _Log(job.pod, read=now - _LOG_INTERVAL / 2)
        due = known.read + known.interval - now
        if due > 0:
            return due
        known.read = now
        try:
            known.text = await self._cluster.pod_log(key.namespace, job.pod, lines=_LOG_LINES)
            known.interval = _LOG_INTERVAL
        except ApiError as error:
            log.debug("the log of %s could not be read: %s", job.pod, error)
            known.interval = min(2 * known.interval, _LONGEST_LOG_INTERVAL)
        return known.interval

    def _progress(self, key: Key) -> Mapping[str, Any]:
        return read_progress(self._logs[key].text) if key in self._logs else {}

    def _rival(self, item: Object) -> tuple[str, str] | None:
        """Return the obstacle that an older FineTuneJob is, which serves its model under the same name."""
        mine = _age(item)
        for server, model in claims(item):
            for other in self._cache.claimants(server, model):
                meta = other["metadata"]
                if _age(other) < mine and not meta.get("deletionTimestamp"):
                    same = meta["namespace"] == item["metadata"]["namespace"]
                    who = f"FineTuneJob {meta['name']}" if same else "a FineTuneJob in another namespace"
                    return "ModelNameTaken", (
                        f"{who} serves its model as {model} on server {server!r}. "
                        "Choose another `spec.ollama.model` (another tag will do), or delete the other job."
                    )
        return None

    # --- what is done

    async def _is_current(self, key: Key, item: Object) -> bool:
        """Tell whether the FineTuneJob is still the one that was planned with."""
        live = await self._cluster.get(FINETUNEJOBS, key.namespace, key.name)
        if live is None:
            self._cache.drop_finetunejob(item)
            return False
        if live["metadata"]["resourceVersion"] == item["metadata"]["resourceVersion"]:
            return True
        self._cache.put_finetunejob(live)
        return False

    async def _act(self, item: Object, draft: Draft) -> tuple[str, str] | None:
        """Do what was decided; return reason and sentence if the API server does not let a child be created."""
        namespace = draft.subject.namespace
        for name in draft.delete:
            log.info("stopping Job %s", name, extra=_about(item))
            await self._cluster.delete(JOBS, namespace, name, foreground=True)
        for name in {*draft.delete, *_ended(draft)}:
            await self._tidy(draft, name)
        for child in draft.create:
            try:
                await self._create(child)
            except ApiError as error:
                metrics.API_ERRORS.labels(str(error.status)).inc()
                if error.gone or error.conflict or error.status in {0, 429} or error.status >= 500:
                    raise
                quota = "exceeded quota" in str(error)
                return ("QuotaExceeded" if quota else "ApiRefused"), f"{child['kind']}: {error}"
        if draft.create:
            labels = draft.create[-1]["metadata"]["labels"]
            metrics.STAGES_STARTED.labels(labels[keys.STAGE_LABEL]).inc()
            name = draft.create[-1]["metadata"]["name"]
            log.info("created Job %s", name, extra={**_about(item), "stage": labels[keys.STAGE_LABEL]})
        return None

    async def _create(self, child: Object) -> None:
        meta = child["metadata"]
        try:
            made = await self._cluster.create(child)
        except ApiError as error:
            if not error.exists:
                raise
            there = await self._cluster.get(JOBS, meta["namespace"], meta["name"]) if child["kind"] == "Job" else None
            if there is None:
                return
            made = there
        if child["kind"] == "Job":
            self._cache.put_job(made)

    async def _tidy(self, draft: Draft, name: str) -> None:
        """Remove what only a running Job needs."""
        await self._cluster.delete(CONFIG_MAPS, draft.subject.namespace, name)
        several = draft.subject.job.spec.training.nodes > 1
        if several and any(job.name == name and job.stage is StageName.TRAIN for job in draft.world.jobs):
            await self._cluster.delete(SERVICES, draft.subject.namespace, name)

    async def _write(self, item: Object, status: dict[str, Any]) -> bool:
        """Write the status if it is another one; tell whether it is on the server now."""
        before = item.get("status") or {}
        if status == before:
            return True
        whole = {"apiVersion": FINETUNEJOBS.api_version, "kind": FINETUNEJOBS.kind, **item, "status": status}
        try:
            written = await self._cluster.replace_status(whole)
        except ApiError as error:
            if error.gone:
                return True
            if not error.conflict:
                raise
            return False
        self._cache.put_finetunejob(written)
        for note in notes(before, status):
            self._tell(item, note)
        _count(before, status)
        return True


def _subject(job: FineTuneJob, item: Object) -> Subject:
    meta = item["metadata"]
    annotations = meta.get("annotations") or {}
    return Subject(
        job=job,
        uid=meta["uid"],
        namespace=meta["namespace"],
        generation=int(meta.get("generation", 1)),
        status=item.get("status") or {},
        retry=annotations.get(keys.RETRY_ANNOTATION, "")[:_MAX_ANNOTATION],
        refresh=annotations.get(keys.REFRESH_ANNOTATION, "")[:_MAX_ANNOTATION],
    )


def _age(item: Object) -> tuple[str, str]:
    return str(item["metadata"].get("creationTimestamp", "")), str(item["metadata"]["uid"])


def _soonest(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)


def _about(item: Object) -> dict[str, str]:
    return {"namespace": item["metadata"]["namespace"], "finetunejob": item["metadata"]["name"]}


def _ended(draft: Draft) -> set[str]:
    """Return the Jobs that ran, as the status said before, and do not any more."""
    before = read_records(draft.subject.status).values()
    ran = {record.job for record in before if record.state in ACTIVE and record.job}
    run = {record.job for record in draft.records.values() if record.state in ACTIVE}
    return ran - run


def _not_started(draft: Draft) -> dict[Any, Any]:
    """Return the records as they were of what could not be created."""
    before = read_records(draft.subject.status)
    names = {child["metadata"]["name"] for child in draft.create}
    return {
        name: replace(record, state=State.WAITING, job=before[name].job, attempts=before[name].attempts)
        for name, record in draft.records.items()
        if record.job in names
    }


def _count(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    earlier = read_records(before)
    for name, record in read_records(after).items():
        if record.state is earlier[name].state:
            continue
        if record.state is State.SUCCEEDED:
            metrics.STAGES_FINISHED.labels(str(name), "Cached" if record.cached else "Succeeded").inc()
        elif record.state is State.FAILED or (record.state is State.WAITING and record.reason):
            metrics.STAGES_FINISHED.labels(str(name), record.reason).inc()
