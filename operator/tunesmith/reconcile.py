"""Brings one FineTuneJob a step further: has `decide` say what to do, does it, and writes the status."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from tunesmith import acting, metrics
from tunesmith.api import keys
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.parse import InvalidJobError, parse_object
from tunesmith.api.settings import Settings
from tunesmith.api.status import State
from tunesmith.core import policy
from tunesmith.core.asked import asked
from tunesmith.core.base_job import base_job, volume_key
from tunesmith.core.conditions import Note, invalid_status, next_status, notes
from tunesmith.core.decide import Draft, Subject, World, decide, is_settled
from tunesmith.core.manifests import effective_storage
from tunesmith.core.observe import Phase
from tunesmith.core.record import read_records
from tunesmith.core.times import to_time
from tunesmith.expiring import remove_expired
from tunesmith.kube.cache import Cache, Key, key_of
from tunesmith.kube.cluster import FINETUNEJOBS, JOBS, ApiError, Cluster, Object
from tunesmith.kube.items import about, whole
from tunesmith.observing import FIRST_LOOK, Observer
from tunesmith.removing import Remover
from tunesmith.running_logs import RunningLogs
from tunesmith_stages.reasons import recognised
from tunesmith_stages.reasons.row import Where

log = logging.getLogger(__name__)

_REFUSED_POLL = 15.0
_CONFLICT_PAUSE = 0.2
_YOUNG = 60.0
"""Seconds in which nobody else can have begun, ended and removed a Job for a FineTuneJob that is new."""
_WRONG = frozenset({400, 413, 422})
"""What the API server says of an object that it will never take as it is."""
_AFTER_MENDING = f"When it is mended elsewhere, set the annotation {keys.RETRY_ANNOTATION} to any new value."
AT_ONCE = 0.0


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
        logs: RunningLogs,
        others_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        """Work on a cluster.

        Args:
            cluster: what is asked, and told what to do.
            cache: what is known of it.
            settings: the administrator's.
            now: the clock.
            tell: is given the Events to be told about a FineTuneJob.
            logs: of the programs that run.
            others_wait: tells whether there are FineTuneJobs for which nothing has been begun.
        """
        self._cluster = cluster
        self._cache = cache
        self._settings = settings
        self._now = now
        self._tell = tell
        self._others_wait = others_wait
        self._owed: dict[Key, tuple[str, dict[str, Any]]] = {}  # first statuses, not written yet, and whose: uid
        self._parsed: dict[Key, tuple[str, int, FineTuneJob, tuple[str, ...]]] = {}
        self._observer = Observer(cluster, cache, now)
        self._logs = logs
        self._remover = Remover(cluster, cache, settings, now=now, tell=tell)

    async def reconcile(self, key: Key) -> float | None:
        """Bring a FineTuneJob a step further; return the seconds until it must be looked at again, if it must.

        Raises:
            ApiError: the API server could not be asked, or is overloaded.
        """
        item = self._cache.finetunejobs.get(key)
        if item is None or item["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return await self._remover.go_on(key, item)
        try:
            job, warnings = self._parse(key, item)
        except InvalidJobError as error:
            self._cache.withdraw(key)
            return await self._refuse(item, error)
        subject = _subject(job, item, self._status_of(key, item))
        if is_settled(subject.status, subject.generation, subject.refresh):
            self._cache.withdraw(key)
            self._observer.forget(key)
            self._logs.forget(key)
            return AT_ONCE if await self._remover.hold(item) else await self._expire(item, job, subject.status)
        world, wake = await self._observe(key, item, subject)
        draft = decide(subject, world, self._settings, self._now())
        with self._cache.announced(key, draft.create):
            acts = draft.create or draft.delete
            if acts and not self._is_untouched(item, subject) and not await self._is_current(item):
                return AT_ONCE
            held = await self._hold(item, draft)
            if held:
                return AT_ONCE
            begun = await self._act(item, draft) and held is not None
            if not begun:
                wake = _soonest(wake, _REFUSED_POLL if draft.stalled is None else None)
            elif draft.create:
                wake = _soonest(wake, FIRST_LOOK)
        status = next_status(draft, self._logs.told(key).progress, warnings)
        if begun and draft.create and not subject.status and self._others_wait():
            self._owed[key] = (item["metadata"]["uid"], status)
            return AT_ONCE
        if not await self._write(item, status):
            return _CONFLICT_PAUSE
        return _soonest(wake, draft.wake_after, await self._expire(item, job, status))

    def has_begun(self, key: Key) -> bool:
        """Tell whether the first Job of a FineTuneJob is there and only its status is not written yet.

        In a burst, Jobs are created before statuses are written: people wait for the former.
        """
        item = self._cache.finetunejobs.get(key)
        return item is not None and bool(self._status_of(key, item))

    def _status_of(self, key: Key, item: Object) -> Mapping[str, Any]:
        """Return the status that is to be on the server: the one that is there, or the first one, still to be written.

        If that is lost, the next look finds the Job and comes to the same.
        """
        uid, owed = self._owed.get(key, ("", {}))
        return item.get("status") or (owed if uid == item["metadata"]["uid"] else {})

    def _forget(self, key: Key) -> None:
        self._owed.pop(key, None)
        self._parsed.pop(key, None)
        self._cache.withdraw(key)
        self._observer.forget(key)
        self._logs.forget(key)

    def _parse(self, key: Key, item: Object) -> tuple[FineTuneJob, tuple[str, ...]]:
        uid, generation = item["metadata"]["uid"], int(item["metadata"].get("generation", 1))
        known = self._parsed.get(key)
        if known is not None and known[:2] == (uid, generation):
            return known[2], known[3]
        there = whole(item)
        job, warnings = parse_object({name: there[name] for name in ("apiVersion", "kind", "metadata", "spec")})
        self._parsed[key] = (uid, generation, job, tuple(warnings))
        return job, tuple(warnings)

    async def _refuse(self, item: Object, error: InvalidJobError) -> float | None:
        message = "; ".join(str(problem) for problem in error.problems)
        generation = int(item["metadata"].get("generation", 1))
        before = item.get("status") or {}
        if is_settled(before, generation, asked(keys.REFRESH_ANNOTATION, item["metadata"], before)):
            return None  # what an earlier version took and finished stays as it is, though this one would not take it
        written = await self._write(item, invalid_status(before, generation, "InvalidSpec", message, self._now()))
        return None if written else _CONFLICT_PAUSE

    # --- what is there

    async def _observe(self, key: Key, item: Object, subject: Subject) -> tuple[World, float | None]:
        observed, wake = await self._observer.observe(key, subject)
        observed = await self._logs.with_tails(key, observed, subject.records)
        running = next((job for job in observed if job.phase is Phase.RUNNING and not job.lookup), None)
        if running is not None:
            self._logs.follow(key, running.pod)
        else:
            self._logs.forget(key)
        storage = effective_storage(subject.job, subject.namespace, self._settings)
        volume = volume_key(storage.model_dump(mode="json", by_alias=True))
        world = World(
            jobs=tuple(observed),
            made_elsewhere=partial(self._cache.made_elsewhere, subject.namespace, subject.uid, volume),
            obstacle=policy.obstacle(subject.job, subject.namespace, self._settings) or self._rival(item),
            base=base_job(item, lambda name: self._cache.finetunejobs.get(Key(key.namespace, name)), volume),
            save_seconds=self._logs.told(key).save_seconds,
        )
        return world, wake

    def _rival(self, item: Object) -> tuple[str, str] | None:
        """Return the obstacle that another FineTuneJob is, which serves its model under the same name."""
        found = self._cache.goes_before(item)
        if found is None:
            return None
        (server, model), meta = found[0], found[1]["metadata"]
        same = meta["namespace"] == item["metadata"]["namespace"]
        who = f"FineTuneJob {meta['name']}" if same else "a FineTuneJob in another namespace"
        return "ModelNameTaken", (
            f"{who} serves its model as {model} on server {server!r}. "
            "Choose another `spec.ollama.model` (another tag will do), or delete the other job."
        )

    # --- what is done

    def _is_untouched(self, item: Object, subject: Subject) -> bool:
        """Tell whether a FineTuneJob was created just now: it need not be read again, its Job's name is its own.

        Without a status it may also be one of which this process has not heard for long.
        """
        born = to_time(item["metadata"].get("creationTimestamp", ""))
        return not subject.status and born is not None and abs((self._now() - born).total_seconds()) < _YOUNG

    async def _is_current(self, item: Object) -> bool:
        """Tell whether the FineTuneJob is still the one that was planned with; if not, the cache has the one it is."""
        live = await self._read_again(item)
        return live is not None and live["metadata"]["resourceVersion"] == item["metadata"]["resourceVersion"]

    async def _read_again(self, item: Object) -> Object | None:
        """Read a FineTuneJob from the server, whose word holds whatever was known before; None if it is gone."""
        live = await self._cluster.get(FINETUNEJOBS, item["metadata"]["namespace"], item["metadata"]["name"])
        if live is None:
            self._cache.drop_finetunejob(item)
        elif live["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
            self._cache.put_finetunejob(live, live=True)
        return live

    async def _expire(self, item: Object, job: FineTuneJob, status: Mapping[str, Any]) -> float | None:
        ttl = job.spec.ttl_seconds_after_finished
        return await remove_expired(self._cluster, self._cache, item, status, ttl, self._now())

    async def _hold(self, item: Object, draft: Draft) -> bool | None:
        """Have the finalizer be there before anything is begun; tell whether that changed the FineTuneJob.

        None if the API server does not let it: then nothing is begun, and the draft says why.
        """
        try:
            return await self._remover.hold(item)
        except ApiError as error:
            self._not_let(draft, keys.KIND, error)
            draft.create = ()
            return None

    async def _act(self, item: Object, draft: Draft) -> bool:
        """Do what was decided; tell whether the API server let all children be created. If not, the draft says why."""
        namespace = draft.subject.namespace
        for name in draft.delete:
            log.info("stopping Job %s", name, extra=about(item))
            await self._cluster.delete(JOBS, namespace, name, foreground=True)
        await acting.tidy(self._cluster, self._cache, draft)
        for child in draft.create:
            try:
                await acting.create(self._cluster, self._cache, child)
            except ApiError as error:
                self._not_let(draft, child["kind"], error)
                return False
        if draft.create:
            labels = draft.create[-1]["metadata"]["labels"]
            metrics.STAGES_STARTED.labels(labels[keys.STAGE_LABEL]).inc()
            name = draft.create[-1]["metadata"]["name"]
            log.info("created Job %s", name, extra={**about(item), "stage": labels[keys.STAGE_LABEL]})
        return True

    def _not_let(self, draft: Draft, kind: str, error: ApiError) -> None:
        """Have the draft say that the API server does not let something of this kind be created or changed."""
        metrics.API_ERRORS.labels(str(error.status)).inc()
        if error.conflict or error.status in {0, 404, 429} or error.status >= 500:
            raise error
        if error.status in _WRONG:
            reason, message = _refusal(kind, error)
            draft.stalled = reason, f"{message} {_AFTER_MENDING}"
        else:
            draft.waits_for = _refusal(kind, error)
        if draft.unstarted is not None:
            draft.records = {**draft.records, draft.unstarted.name: draft.unstarted}

    async def _write(self, item: Object, status: dict[str, Any]) -> bool:
        """Write the status if it is another one; tell whether it is on the server now."""
        before = item.get("status") or {}
        if status == before:
            return True
        try:
            written = await self._cluster.replace_status({**whole(item), "status": status})
        except ApiError as error:
            if error.gone:
                return True
            if not error.conflict:
                raise
            await self._read_again(item)
            return False
        self._cache.put_finetunejob(written)
        self._owed.pop(key_of(item), None)
        for note in notes(before, status):
            self._tell(item, note)
        _count(before, status)
        return True


def _refusal(kind: str, error: ApiError) -> tuple[str, str]:
    """Return why the API server does not let something of this kind be created or changed."""
    row = recognised(Where.API, text=str(error))
    assert row is not None  # noqa: S101 - the table has a row for whatever the API server says
    return row.name, f"{kind}: {error}"


def _subject(job: FineTuneJob, item: Object, status: Mapping[str, Any]) -> Subject:
    meta = item["metadata"]
    return Subject(
        job=job,
        uid=meta["uid"],
        namespace=meta["namespace"],
        generation=int(meta.get("generation", 1)),
        status=status,
        retry=asked(keys.RETRY_ANNOTATION, meta, status),
        refresh=asked(keys.REFRESH_ANNOTATION, meta, status),
    )


def _soonest(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)


def _count(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    earlier = read_records(before)
    for name, record in read_records(after).items():
        if record.state is earlier[name].state:
            continue
        if record.state is State.SUCCEEDED:
            metrics.STAGES_FINISHED.labels(str(name), "Cached" if record.cached else "Succeeded").inc()
        elif record.state is State.FAILED or (record.state is State.WAITING and record.reason):
            metrics.STAGES_FINISHED.labels(str(name), record.reason).inc()
