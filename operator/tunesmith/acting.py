"""What the operator does with the child objects of a FineTuneJob: it creates them, and removes what is left of them."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.api.status import State
from tunesmith.core.decide import Draft
from tunesmith.core.manifests import lookup_name
from tunesmith.core.observe import ObservedJob, Phase
from tunesmith.core.pod_state import has_ended
from tunesmith.core.record import ACTIVE, StageRecord
from tunesmith.kube.cache import Cache
from tunesmith.kube.cluster import BY_KIND, CONFIG_MAPS, JOBS, SERVICES, ApiError, Cluster, Object

_ENDED = frozenset({Phase.SUCCEEDED, Phase.FAILED})
_KEPT_FAILURES = 3
"""Failed Jobs of a stage that stay to be looked at, besides the newest attempt."""


async def create(cluster: Cluster, cache: Cache, child: Object) -> None:
    """Create a child's Job, ConfigMap or Service, if it is not there.

    Raises:
        ApiError: the API server does not let it.
    """
    meta = child["metadata"]
    try:
        made = await cluster.create(child)
    except ApiError as error:
        if not error.exists:
            raise
        there = await cluster.get(JOBS, meta["namespace"], meta["name"])
        if there is None:
            if child["kind"] != "Job":
                await _create_anew(cluster, child)
            return
        made = there
    if made["kind"] == "Job":
        if has_ended(made):  # nobody had told us of it
            await _remove_needs(cluster, meta["namespace"], meta["name"])
        cache.put_job(made)


async def _create_anew(cluster: Cluster, child: Object) -> None:
    """Replace what an attempt has left that never came to its Job: it may say something else than is wanted now."""
    meta = child["metadata"]
    await cluster.delete(BY_KIND[child["kind"]], meta["namespace"], meta["name"])
    try:
        await cluster.create(child)
    except ApiError as error:
        if not error.exists:  # somebody else did the same just now
            raise


async def _remove_needs(cluster: Cluster, namespace: str, name: str, *, service: bool = True) -> None:
    """Remove what only a running Job needs."""
    await cluster.delete(CONFIG_MAPS, namespace, name)
    if service:
        await cluster.delete(SERVICES, namespace, name)


async def tidy(cluster: Cluster, cache: Cache, draft: Draft) -> None:
    """Remove what only running Jobs need of those that run no more, and old failed Jobs."""
    namespace, uid = draft.subject.namespace, draft.subject.uid
    for name in sorted({*draft.delete, *_ended(draft)}):
        job = cache.job(namespace, uid, name)
        await _remove_needs(cluster, namespace, name, service=job is None or job["spec"]["completions"] > 1)
    for name in _superseded(draft, cache.jobs_of(namespace, uid)):
        await cluster.delete(JOBS, namespace, name)


def _ended(draft: Draft) -> set[str]:
    """Return the Jobs that ran, or were found to have run, and do not any more."""
    ended = set()
    before = draft.subject.records
    for name, record in draft.records.items():
        was = before[name]
        if was.state in ACTIVE and (record.state not in ACTIVE or record.job != was.job):
            ended |= {was.job, *_lookups_of(draft, was)}
        if record.job != was.job and record.state not in ACTIVE:
            ended.add(record.job)
        if record.job != was.job:
            ended |= _unheard_of(draft, was, record)
    if draft.finished:  # whatever else there is: what ran while nobody knew that it was to
        newest = {record.job for record in draft.records.values()}
        ended |= {job.name for job in draft.world.jobs if job.phase in _ENDED} - newest
    return ended - {""}


def _unheard_of(draft: Draft, was: StageRecord, record: StageRecord) -> set[str]:
    """Return the Jobs that ended before the status could tell of them, and that a new attempt takes the place of."""
    told = was.attempts if was.keys == record.keys else 0
    return {
        job.name
        for job in draft.world.jobs
        if (job.stage, job.keys) == (record.name, record.keys)
        and told < job.attempt < record.attempts
        and job.phase in _ENDED
    }


def _lookups_of(draft: Draft, record: StageRecord) -> set[str]:
    """Return the Jobs that look up what became of an attempt; one whose labels somebody took may not be known."""
    found = {job.name for job in draft.world.jobs if job.lookup and job.attempt_id == record.attempt_id}
    return {*found, lookup_name(record.job)} if record.job and record.state is State.UNKNOWN else found


def _superseded(draft: Draft, newest_first: Sequence[Object]) -> list[str]:
    """Return the failed Jobs that newer ones have taken the place of, but for the last few of each stage.

    Otherwise they would stay until the FineTuneJob ends, and what is tried again for days leaves hundreds.
    """
    created = {job["metadata"]["name"]: str(job["metadata"].get("creationTimestamp", "")) for job in newest_first}
    old = []
    for name, record in draft.records.items():
        failed = [job for job in draft.world.jobs if job.stage is name and _is_over(job, record)]
        failed.sort(key=lambda job: (created.get(job.name, ""), job.attempt), reverse=True)
        old += [job.name for job in failed[_KEPT_FAILURES:] if job.name in created and job.name not in draft.delete]
    return old


def _is_over(job: ObservedJob, record: StageRecord) -> bool:
    return job.phase is Phase.FAILED and job.attempt_id != record.attempt_id
