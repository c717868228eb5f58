"""Removes from Ollama what a FineTuneJob with `deletionPolicy: Delete` serves, before it goes away.

A finalizer keeps the deleted FineTuneJob until a child Job has done that. It is there before anything can be
registered, and it goes after ten minutes at the latest, whatever is left: then an Event, the log and a metric tell
what. Like all else it is level-triggered: an operator that was away goes on where the cluster stands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tunesmith import acting, metrics
from tunesmith.api import keys
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.parse import InvalidJobError, parse_object
from tunesmith.api.settings import Settings
from tunesmith.core import removal
from tunesmith.core.conditions import Note
from tunesmith.core.manifests import ManifestError, child_manifests
from tunesmith.core.observe import NOTHING_YET, ObservedJob, Phase, observe_job
from tunesmith.core.pod_state import has_ended, pod_phase
from tunesmith.core.times import seconds_between, to_text
from tunesmith.events import event
from tunesmith.kube.cache import Cache, Key, key_of
from tunesmith.kube.claims import Claim
from tunesmith.kube.cluster import FINETUNEJOBS, JOBS, PODS, ApiError, Cluster, Object
from tunesmith.kube.items import about, whole
from tunesmith_stages.contract import ExitCode, Failure, StageName
from tunesmith_stages.model_name import canonical
from tunesmith_stages.reasons import retry_of

log = logging.getLogger(__name__)

LEFT_BEHIND = "ModelsLeftBehind"
_AT_ONCE = 0.0
_POLL = 2.0
_REFUSED_POLL = 15.0
_NEXT_ATTEMPT_SECONDS = 15
_CASCADES = {"foregroundDeletion", "orphan"}
"""Kubernetes' finalizers while it deletes what a FineTuneJob owns first, or takes it away from it: what is created then
meets the same fate."""


@dataclass(frozen=True)
class Children:
    """The child Jobs and Pods of a FineTuneJob that is being deleted, as the API server has them now."""

    jobs: Sequence[Object]
    pods: Sequence[Object]

    @property
    def removals(self) -> list[ObservedJob]:
        """What was begun to remove its models, the newest last."""
        observed = [observe_job(job, self._pods_of(job)) for job in self.jobs if _removes(job)]
        return sorted((seen for seen in observed if seen is not None), key=lambda seen: seen.attempt)

    @property
    def running(self) -> list[Object]:
        """The Jobs of stages that have not ended and are not told to."""
        return [job for job in self.stages if not has_ended(job) and not job["metadata"].get("deletionTimestamp")]

    @property
    def stages(self) -> list[Object]:
        """All Jobs of stages."""
        return [job for job in self.jobs if not _removes(job)]

    @property
    def speak_with_ollama(self) -> bool:
        """Whether a stage may still change something on a server."""
        live = [job for job in self.stages if not has_ended(job)]
        live += [pod for pod in self.pods if not _removes(pod) and not _is_over(pod)]
        return any(removal.may_be_of(item, StageName.REHEARSE, StageName.REGISTER) for item in live)

    def _pods_of(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [pod for pod in self.pods if _is_owned_by(pod, uid)]


@dataclass(frozen=True)
class End:
    """How a removal ends: what is told, and what is counted once the FineTuneJob goes."""

    notes: Sequence[Note]
    removed: float = 0
    """Models that were removed."""
    left: int = 0
    """Models that may be left behind."""
    reason: str = ""
    """Why they are."""

    def count(self) -> None:
        """Count it in the metrics."""
        metrics.MODELS_REMOVED.inc(self.removed)
        if self.left:
            metrics.MODELS_LEFT_BEHIND.labels(self.reason).inc(self.left)


class Remover:
    """Keeps FineTuneJobs from going away before their models have, and lets them go."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        settings: Settings,
        *,
        now: Callable[[], datetime],
        tell: Callable[[Object, Note], None],
    ) -> None:
        """The arguments are those of ``reconcile.Reconciler``."""
        self._cluster = cluster
        self._cache = cache
        self._settings = settings
        self._now = now
        self._tell = tell
        self._registered: dict[Key, frozenset[str]] = {}  # keys, by what Jobs told that may be gone since
        self._refused: dict[Key, str] = {}
        self._ends: dict[Key, End] = {}  # of those that are being let go: there may be no answer to that

    async def hold(self, item: Object) -> bool:
        """Have a FineTuneJob have the finalizer if its `deletionPolicy` asks for it; tell whether it has changed.

        Raises:
            ApiError: the API server refuses.
        """
        if removal.holds(item) == removal.is_wanted(item):
            return False
        await self._set_finalizer(item, there=removal.is_wanted(item))
        return True

    async def go_on(self, key: Key, item: Object | None) -> float | None:
        """Bring the removal for a deleted FineTuneJob a step further; return the seconds until the next, if any.

        `item` is None when it is gone.

        Raises:
            ApiError: the API server could not be asked, or is overloaded.
        """
        if item is None or not removal.holds(item):
            self._end(key)
            return None
        step = await self._step(key, item) if removal.is_wanted(item) else End(())
        return await self._let_go(key, item, step) if isinstance(step, End) else step

    async def _step(self, key: Key, item: Object) -> float | End:
        """Bring the removal a step further; return the seconds until the next, or how it ends."""
        try:
            return await self._go_on(key, item, _parse(item))
        except InvalidJobError as error:
            return self._give_up(item, "InvalidSpec", f"its spec cannot be read: {error}")
        except ApiError as error:
            if removal.seconds_left(item, self._now()) > 0:
                raise
            return self._give_up(item, "ApiRefused", f"the API server refuses: {error}")

    async def _go_on(self, key: Key, item: Object, job: FineTuneJob) -> float | End:
        children = await self._children(item)
        for running in children.running:
            name = running["metadata"]["name"]
            log.info("stopping Job %s", name, extra=about(item))
            await self._cluster.delete(JOBS, key.namespace, name, foreground=True)
        status = item.get("status") or {}
        known = removal.registered_keys(status, children.stages) | self._registered.get(key, frozenset())
        self._registered[key] = known
        if children.speak_with_ollama:
            return self._wait(item, _POLL, "a stage that speaks with Ollama is still ending")
        return await self._remove(item, job, children, known)

    # --- the removal

    async def _remove(self, item: Object, job: FineTuneJob, children: Children, known: frozenset[str]) -> float | End:
        reach = self._reach(item, job) if known else removal.Reach({})
        attempts = children.removals
        newest = attempts[-1] if attempts else None
        if newest is not None and newest.phase is Phase.SUCCEEDED:
            return self._removed(item, newest, reach)
        if not reach.names:
            return self._removed(item, None, reach)
        if newest is not None and newest.phase is Phase.FAILED:
            return await self._failed(item, job, newest, reach, known)
        if newest is not None:
            return self._wait(item, _POLL, _why_it_waits(newest))
        if _CASCADES & {*removal.finalizers(item)}:
            return self._wait(item, _POLL, "what it owns is still being deleted")
        return await self._begin(item, job, reach, known, attempt=1)

    def _reach(self, item: Object, job: FineTuneJob) -> removal.Reach:
        """Return what is to be removed: nothing that another FineTuneJob serves by now, nor what is not allowed."""
        status, namespace = item.get("status") or {}, item["metadata"]["namespace"]
        wanted = removal.wanted_names(job, status)
        claims = {Claim(server, canonical(name)) for server, names in wanted.items() for name in names}
        taken = self._cache.taken(item, claims)
        ours = {
            server: [name for name in names if Claim(server, canonical(name)) not in taken]
            for server, names in wanted.items()
        }
        return removal.within_reach(ours, status, namespace, self._settings)

    async def _begin(
        self, item: Object, job: FineTuneJob, reach: removal.Reach, known: Iterable[str], *, attempt: int
    ) -> float | End:
        seconds = removal.seconds_left(item, self._now()) - removal.LAST_WORDS_SECONDS
        if seconds <= 0:
            return self._wait(item, _POLL, self._refused.get(key_of(item), "there was no time to begin"))
        child = removal.removal_child(
            job, item, reach.names, known, attempt=attempt, image=self._settings.stage_image, seconds=seconds
        )
        try:
            for part in child_manifests(child, self._settings):
                await acting.create(self._cluster, self._cache, part)
        except ManifestError as error:
            return self._give_up(item, error.reason, f"{error.message}. {error.hint}")
        except ApiError as error:
            return self._not_let(item, error)
        words = removal.in_words(reach.names)
        log.info("removing %s from Ollama", words, extra=about(item))
        self._tell(item, Note("Normal", "RemovingModels", f"removing from Ollama: {words}"[:1000]))
        return _POLL

    def _not_let(self, item: Object, error: ApiError) -> float | End:
        """Deal with an API server that does not let a child be created."""
        if error.gone:
            return self._give_up(item, "NamespaceTerminating", f"nothing can be started there any more: {error}")
        metrics.API_ERRORS.labels(str(error.status)).inc()
        if error.conflict or error.status in {0, 429} or error.status >= 500:
            raise error
        self._refused[key_of(item)] = f"the API server refuses the Job that removes: {error}"
        log.warning("the API server refuses the Job that removes models: %s", error, extra=about(item))
        return self._wait(item, _REFUSED_POLL, str(error))

    async def _failed(
        self, item: Object, job: FineTuneJob, newest: ObservedJob, reach: removal.Reach, known: Iterable[str]
    ) -> float | End:
        failure = newest.failure or Failure(ExitCode.TEMPORARY, "Interrupted", "its Pod is gone", "")
        if not (newest.interrupted or retry_of(failure.reason, failure.code).tried):
            return self._give_up(item, failure.reason, f"{failure.message} {failure.hint}".strip())
        ended = seconds_between(newest.finished, to_text(self._now())) if newest.finished else _NEXT_ATTEMPT_SECONDS
        if ended < _NEXT_ATTEMPT_SECONDS:
            return self._wait(item, _NEXT_ATTEMPT_SECONDS - ended, failure.message)
        left = removal.seconds_left(item, self._now())
        if left < removal.LAST_WORDS_SECONDS + _NEXT_ATTEMPT_SECONDS:
            return self._give_up(item, failure.reason, failure.message)
        return await self._begin(item, job, reach, known, attempt=newest.attempt + 1)

    def _wait(self, item: Object, seconds: float, why: str) -> float | End:
        """Return when to look again; give up if the time is over."""
        left = removal.seconds_left(item, self._now())
        if left <= 0:
            return self._give_up(item, "TimedOut", why)
        return min(seconds, left)

    # --- its end

    def _removed(self, item: Object, done: ObservedJob | None, reach: removal.Reach) -> End:
        """Return what was removed, and what was not for reasons that no time mends."""
        counts = done.report.numbers if done is not None and done.report is not None else {}
        unknown = int(counts.get("unknown", 0))
        left = list(reach.out_of_reach)
        if unknown:
            left.append(
                f"{unknown} of {removal.in_words(reach.names)}, of which the volume does not say whose they are"
            )
        notes = []
        if done is not None:
            notes.append(Note("Normal", "ModelsRemoved", _sentence(counts, reach)[:1000]))
        if left:
            notes.append(_left_behind("; ".join(left), "they are not known to be this job's, or not within reach"))
            log.warning("%s", notes[-1].message, extra=about(item))
        return End(notes, counts.get("removed", 0), unknown + len(reach.out_of_reach), "OutOfReach")

    def _give_up(self, item: Object, reason: str, why: str) -> End:
        """Return that the FineTuneJob goes although its models may still be there."""
        there = removal.served(item.get("status") or {})
        words = removal.in_words(there) or "what it was about to register"
        note = _left_behind(words, why)
        log.warning("%s", note.message, extra=about(item))
        return End([note], left=sum(map(len, there.values())) or 1, reason=reason)

    async def _let_go(self, key: Key, item: Object, end: End) -> float | None:
        """Tell how it ended and take our finalizer away; return when to look again if there is something to look at.

        In this order: as soon as the FineTuneJob is gone nobody knows any more what there was to tell.

        Raises:
            ApiError: the finalizer cannot be taken away now. That changes nothing in how it ended.
        """
        for note in end.notes:
            await self._say(item, note)
        self._ends[key] = end
        if not await self._set_finalizer(item, there=False):
            return _AT_ONCE
        self._end(key)
        there = self._cache.finetunejobs.get(key)
        # Where another one has come in its place, its being there may be no news any more: we have read it ourselves.
        return None if there is None or there["metadata"]["uid"] == item["metadata"]["uid"] else _AT_ONCE

    def _end(self, key: Key) -> None:
        """Count how the removal for a FineTuneJob ended that is gone or let go, and drop what is remembered of it."""
        end = self._ends.pop(key, None)
        if end is not None:
            end.count()
        self._registered.pop(key, None)
        self._refused.pop(key, None)

    async def _say(self, item: Object, note: Note) -> None:
        """Create an Event; if it was created before, by this process or another one, there is no second one.

        Raises:
            ApiError: the API server could not be asked, and there is time to ask again.
        """
        try:
            await self._cluster.create(event(item, note, self._now(), once=True))
        except ApiError as error:
            if (error.undecided or error.status == 429) and removal.seconds_left(item, self._now()) > 0:
                raise
            if not error.exists:
                self._tell(item, note)  # who cannot be told now is not kept for it

    # --- the cluster

    async def _set_finalizer(self, item: Object, *, there: bool) -> bool:
        """Add our finalizer or take it away; tell whether it was done: if the object has changed, it is read again.

        It is also read if there was no answer: what was done is done.
        """
        others = [name for name in removal.finalizers(item) if name != keys.FINALIZER]
        wanted = [*others, keys.FINALIZER] if there else others
        try:
            written = await self._cluster.set_finalizers(whole(item), wanted)
        except ApiError as error:
            if not (error.conflict or error.gone or error.undecided):
                raise
            live = await self._cluster.get(FINETUNEJOBS, item["metadata"]["namespace"], item["metadata"]["name"])
            if live is None:
                self._cache.drop_finetunejob(item)
                return not there
            self._cache.put_finetunejob(live, live=True)
            if live["metadata"]["uid"] != item["metadata"]["uid"]:
                return not there  # ours is gone, and somebody has applied it again
            if error.undecided and removal.holds(live) is not there:
                raise
            return error.undecided
        self._cache.put_finetunejob(written)
        return True

    async def _children(self, item: Object) -> Children:
        """Ask for the children: what the cache knows may be old, and this is asked for seldom.

        From it come those alone that the server does not find by their label, because somebody has changed that.
        """
        meta = item["metadata"]
        mine = f"{keys.UID_LABEL}={meta['uid']}"
        jobs = await self._cluster.find(JOBS, meta["namespace"], labels=mine)
        pods = await self._cluster.find(PODS, meta["namespace"], labels=mine)
        known = {job["metadata"]["name"]: job for job in self._cache.jobs_of(meta["namespace"], meta["uid"])}
        known |= {job["metadata"]["name"]: job for job in jobs if _is_owned_by(job, meta["uid"])}
        return Children(list(known.values()), pods)


def _parse(item: Object) -> FineTuneJob:
    there = whole(item)
    return parse_object({name: there[name] for name in ("apiVersion", "kind", "metadata", "spec")})[0]


def _removes(item: Object) -> bool:
    return (item["metadata"].get("annotations") or {}).get(keys.REMOVAL_ANNOTATION) == "true"


def _is_owned_by(item: Object, uid: str) -> bool:
    return any(ref.get("uid") == uid for ref in item["metadata"].get("ownerReferences") or ())


def _is_over(pod: Object) -> bool:
    return pod_phase(pod) in {"Succeeded", "Failed"}


def _why_it_waits(job: ObservedJob) -> str:
    if job.waiting is not None and job.waiting != NOTHING_YET:
        return f"{job.waiting.reason}: {job.waiting.message}"
    return f"Job {job.name} has not ended"


def _sentence(counts: Mapping[str, float], reach: removal.Reach) -> str:
    """Return what came of a removal; where the program's words are lost it is known only that it ended well."""
    words = removal.in_words(reach.names)
    if not counts:
        return f"{words}: removed, as far as they were still what this job registered"
    told = {
        "removed": "removed",
        "gone": "not there any more",
        "replaced": "somebody else's by now, which stay",
        "unknown": "not known to be this job's, which stay",
    }
    parts = [f"{int(counts[name])} {what}" for name, what in told.items() if counts.get(name)]
    return f"{words}: {', '.join(parts)}"


def _left_behind(models: str, why: str) -> Note:
    sentence = f"these may be left in Ollama: {models}. Why: {why.rstrip('.')}. See what is there with `ollama list`"
    return Note("Warning", LEFT_BEHIND, f"{sentence}, and remove it with `ollama rm`."[:1000])
