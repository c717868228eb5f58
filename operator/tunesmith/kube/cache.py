"""What the operator knows of the cluster: the newest state of each object that it was told of or that it wrote itself.

Only what decisions need is kept. An older state never replaces a newer one, unless the server itself went back.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from tunesmith.api import keys
from tunesmith.core.base_job import base_of, told_to_others
from tunesmith.kube.claims import Claim, Claims, claims
from tunesmith.kube.cluster import ApiError, Listing, Object
from tunesmith.kube.items import (
    Key,
    News,
    Owner,
    finetunejob_of,
    job_of,
    key_of,
    label,
    lean,
    named_by_label,
    ready_reason,
    slim,
    slim_child,
    version_of,
)
from tunesmith.kube.makers import Makers, Work

__all__ = ["MADE_ELSEWHERE", "Cache", "Key", "key_of"]

MADE_ELSEWHERE = "MadeElsewhere"
"""Reason of a job that waits until something that it needs is made by others."""


_Unit = tuple[str, str]
"""A namespace and the content key of what is made there."""


class Children:
    """Jobs or Pods, by name and by what controls them."""

    def __init__(self) -> None:
        self.items: dict[Key, Object] = {}
        self._by_owner: dict[Owner, dict[Key, Object]] = defaultdict(dict)
        self._gone: dict[Key, int] = {}  # with the version of what told so

    def is_past(self, key: Key, version: int) -> bool:
        """Tell whether something newer than this version was told of a child before, be it that it is gone."""
        known = self.items.get(key)
        return version < self._gone.get(key, 0) if known is None else version <= version_of(known)

    def note_gone(self, key: Key, version: int) -> None:
        """Remember since when a child is gone, so that an older state of it does not bring it back."""
        self._gone[key] = max(version, self._gone.get(key, 0))

    def forget_gone(self, version: float = math.inf) -> None:
        """Forget which children were gone by this version: that of a list, which has told so, too."""
        self._gone = {key: since for key, since in self._gone.items() if since > version}

    def set(self, key: Key, child: Object | None) -> Object | None:
        """Remember a child, or forget it; return what was known before."""
        before = self.items.pop(key, None)
        if before is not None:
            siblings = self._by_owner[before["owner"]]
            del siblings[key]
            if not siblings:
                del self._by_owner[before["owner"]]
        if child is not None:
            self.items[key] = self._by_owner[child["owner"]][key] = child
            self._gone.pop(key, None)
        return before

    def of(self, owner: Owner) -> list[Object]:
        """Return the children of something."""
        return list(self._by_owner.get(owner, {}).values())


class Cache:
    """FineTuneJobs with their Jobs and Pods.

    All that takes in news returns the FineTuneJob to be looked at for it; None if it is no news.
    """

    def __init__(self, wake: Callable[[Key], None] = lambda _key: None) -> None:
        """`wake` is told of the *other* FineTuneJobs that have waited for what a piece of news says."""
        self.finetunejobs: dict[Key, Object] = {}
        self._jobs = Children()
        self._pods = Children()
        self._makers = Makers()
        self._announced: dict[Key, Object] = {}  # Jobs that are, or may have been, created just now
        self._claims = Claims()
        self._waiting: dict[_Unit, set[Key]] = defaultdict(set)  # by what is made elsewhere
        self._waits_for: dict[Key, set[_Unit]] = {}
        self._built_on: dict[Key, set[Key]] = defaultdict(set)  # by FineTuneJob, those whose base it trains
        self._listed = 0  # version of the newest list
        self._wake = wake

    # --- FineTuneJobs

    def put_finetunejob(self, item: Mapping[str, Any], *, live: bool = False) -> Key | None:
        """Remember a FineTuneJob; what was read from the server just now (`live`) holds whatever its version is."""
        known = self.finetunejobs.get(key_of(item))
        if known is not None and not live and version_of(item) <= version_of(known):
            return None
        return self._take_finetunejob(self.read_finetunejob(item), live=live)

    def read_finetunejob(self, item: Mapping[str, Any]) -> News:
        """Return what is to be remembered of a FineTuneJob."""
        key = key_of(item)
        kept = _kept(self.finetunejobs.get(key), slim(item))
        return News(key, item["metadata"]["uid"], version_of(item), kept, key)

    def _take_finetunejob(self, news: News, *, live: bool = False) -> Key | None:
        known = self.finetunejobs.get(news.key)
        if known is not None and not live and news.version <= version_of(known):
            return None
        self._set_finetunejob(news.key, news.kept)
        return news.told

    def drop_finetunejob(self, item: Mapping[str, Any]) -> Key | None:
        """Forget a FineTuneJob that is gone, unless another one has taken its name. Its Pods may still be ending."""
        key = key_of(item)
        known = self.finetunejobs.get(key)
        if known is None or known["metadata"]["uid"] != item["metadata"]["uid"]:
            return None
        self._set_finetunejob(key, None)
        return key

    def _set_finetunejob(self, key: Key, item: Object | None) -> None:
        before = self.finetunejobs.get(key)
        if item is None:
            self.finetunejobs.pop(key, None)
            self.withdraw(key)
        else:
            self.finetunejobs[key] = item
        self._tell_built_on(key, before, item)
        self._note_waiting(key, _awaited(item) if item is not None else set())
        for other in self._claims.put(key, claims(item) if item is not None else {}):
            self._wake(other)

    def _note_waiting(self, key: Key, units: set[_Unit]) -> None:
        for unit in self._waits_for.pop(key, ()):
            self._waiting[unit].discard(key)
            if not self._waiting[unit]:
                del self._waiting[unit]
        for unit in units:
            self._waiting[unit].add(key)
        if units:
            self._waits_for[key] = units

    def _tell_built_on(self, key: Key, before: Object | None, item: Object | None) -> None:
        """Wake the FineTuneJobs whose base this one trains, if it has news for them."""
        was, now = (base_of(one) if one is not None else "" for one in (before, item))
        if was and was != now:
            others = self._built_on[Key(key.namespace, was)]
            others.discard(key)
            if not others:
                del self._built_on[Key(key.namespace, was)]
        if now:
            self._built_on[Key(key.namespace, now)].add(key)
        if key in self._built_on and told_to_others(before) != told_to_others(item):
            for other in self._built_on[key]:
                self._wake(other)

    def goes_before(self, item: Mapping[str, Any]) -> tuple[Claim, Object] | None:
        """Return a name that a FineTuneJob wants and another one that goes before it; None if it may have them all."""
        key = key_of(item)
        for claim, rank in self._claims.of(key).items():
            mine = (rank, *_age(item))
            for other_key, other_rank in self._claims.others(key, claim):
                other = self.finetunejobs[other_key]
                if (other_rank, *_age(other)) < mine:
                    return claim, other
        return None

    def taken(self, item: Mapping[str, Any], names: Iterable[Claim]) -> set[Claim]:
        """Return those of `names` that belong to another FineTuneJob rather than to this one."""
        key = key_of(item)
        mine = self._claims.of(key)
        return {
            claim
            for claim in names
            for other, rank in self._claims.others(key, claim)
            if claim not in mine or (rank, *_age(self.finetunejobs[other])) < (mine[claim], *_age(item))
        }

    def is_unseen(self, key: Key) -> bool:
        """Tell whether a FineTuneJob is there that has no status yet: nobody has been told that it is known."""
        item = self.finetunejobs.get(key)
        return item is not None and not item.get("status")

    # --- children

    def put_job(self, item: Mapping[str, Any]) -> Key | None:
        """Remember a child Job. One that no FineTuneJob of its namespace controls is not ours."""
        past = self._jobs.is_past(key_of(item), version_of(item))
        return None if past else self._take_child(self._jobs, self.read_job(item))

    def read_job(self, item: Mapping[str, Any]) -> News:
        """Return what is to be remembered of a Job."""
        parent = finetunejob_of(item)
        key, uid = key_of(item), item["metadata"]["uid"]
        if parent is None:
            return News(key, uid, version_of(item), None, named_by_label(item))
        kept = _kept(self._jobs.items.get(key), slim_child(item, parent[0], pod=False))
        return News(key, uid, version_of(item), kept, parent[1])

    def put_pod(self, item: Mapping[str, Any]) -> Key | None:
        """Remember a Pod of a Job, which may still be unknown: Kubernetes tells of both in any order."""
        past = self._pods.is_past(key_of(item), version_of(item))
        return None if past else self._take_child(self._pods, self.read_pod(item))

    def read_pod(self, item: Mapping[str, Any]) -> News:
        """Return what is to be remembered of a Pod."""
        owner, key, told = job_of(item), key_of(item), named_by_label(item)
        kept = _kept(self._pods.items.get(key), slim_child(item, owner, pod=True)) if owner else None
        return News(key, item["metadata"]["uid"], version_of(item), kept, told)

    def drop_job(self, item: Mapping[str, Any]) -> Key | None:
        """Forget a child Job that is gone."""
        parent = finetunejob_of(item)
        return parent[1] if self._drop(self._jobs, item) and parent else None

    def drop_pod(self, item: Mapping[str, Any]) -> Key | None:
        """Forget a Pod that is gone."""
        return named_by_label(item) if self._drop(self._pods, item) else None

    def _take_child(self, store: Children, news: News) -> Key | None:
        known = store.items.get(news.key)
        if store.is_past(news.key, news.version):
            return None
        if news.kept is None:
            store.note_gone(news.key, news.version)
        if known is None and news.kept is None:
            return None
        self._set_child(store, news.key, news.kept)
        return None if _is_alike(known, news.kept) else news.told

    def _drop(self, store: Children, item: Mapping[str, Any]) -> bool:
        key = key_of(item)
        known = store.items.get(key)
        if known is not None and known["metadata"]["uid"] != item["metadata"]["uid"]:
            return False
        store.note_gone(key, version_of(item))
        if known is None:
            return False
        self._set_child(store, key, None)
        return True

    def _set_child(self, store: Children, key: Key, child: Object | None) -> None:
        before = store.set(key, child)
        self._tell_waiting(self._makers.change(before, child))

    @contextmanager
    def announced(self, key: Key, children: Iterable[Object]) -> Iterator[None]:
        """Have the others see the Job among a FineTuneJob's `children` while the API server is asked to create it.

        Otherwise two workers could begin the same for two FineTuneJobs. If the server does not answer, nobody knows
        whether the Job is there: it is seen until the FineTuneJob was looked at once more.
        """
        jobs = [child for child in children if child["kind"] == "Job"]
        parents = [(job, parent) for job in jobs if (parent := finetunejob_of(job)) is not None]
        about_to_be = [slim_child(_with_uid(job), parent[0], pod=False) for job, parent in parents]
        self._announce(key, about_to_be[0] if about_to_be else None)
        undecided = False
        try:
            yield
        except ApiError as error:
            undecided = error.undecided
            raise
        finally:
            if not undecided:
                self.withdraw(key)

    def withdraw(self, key: Key) -> None:
        """Have the others see no longer what was announced for a FineTuneJob."""
        self._announce(key, None)

    def _announce(self, key: Key, job: Object | None) -> None:
        left_off = self._makers.change(self._announced.pop(key, None), job)
        if job is not None:
            self._announced[key] = job
        self._tell_waiting(left_off)

    def _tell_waiting(self, ended: set[Work]) -> None:
        """Wake the FineTuneJobs that have waited for work that has ended."""
        units = {(work.namespace, work.unit) for work in ended if not self._makers.of(work)}
        for key in {key for unit in units for key in self._waiting.get(unit, ())}:
            self._wake(key)

    def jobs_of(self, namespace: str, uid: str) -> list[Object]:
        """Return the child Jobs of a FineTuneJob, the newest attempt first."""
        return sorted(self._jobs.of(Owner(namespace, uid)), key=_attempt, reverse=True)

    def job(self, namespace: str, uid: str, name: str) -> Object | None:
        """Return a FineTuneJob's child Job of that name."""
        found = self._jobs.items.get(Key(namespace, name))
        return found if found is not None and found["owner"].uid == uid else None

    def pods_of(self, job: Mapping[str, Any]) -> list[Object]:
        """Return the Pods of a child Job."""
        return self._pods.of(Owner(job["metadata"]["namespace"], job["metadata"]["uid"]))

    def made_elsewhere(self, namespace: str, uid: str, volume: tuple[str, str], units: Iterable[str]) -> dict[str, str]:
        """Return, by unit key, a FineTuneJob whose Job or Pod makes that unit now, in the same folder of a volume.

        It may be one that is deleted already, and the one that asks: Kubernetes removes a Job before its Pods have
        ended.

        Args:
            namespace: where.
            uid: of the FineTuneJob that asks; its own Jobs do not count, nor do their Pods.
            volume: the claim that it works on, and which folder of it.
            units: what it is to make.
        """
        found = {}
        for unit in units:
            for maker in self._makers.of(Work(namespace, *volume, unit)):
                job = self._job_of(maker)
                if job is None or job["owner"].uid != uid:
                    parent = finetunejob_of(job) if job is not None else None
                    found[unit] = parent[1].name if parent else label(maker, keys.JOB_LABEL)
        return found

    def _job_of(self, child: Object) -> Object | None:
        """Return the Job that a child is or belongs to; None if it is gone."""
        if not child["pod"]:
            return child
        refs = child["metadata"]["ownerReferences"]
        jobs = (self._jobs.items.get(Key(child["metadata"]["namespace"], ref["name"])) for ref in refs)
        return next((job for job in jobs if job is not None and job["metadata"]["uid"] == child["owner"].uid), None)

    # --- the whole

    # Full lists. Objects that the operator has written after a list was read are not lost: what is newer stays, and
    # what is missing is dropped only if it is older than the list.

    def replace_finetunejobs(self, listing: Listing[News]) -> set[Key]:
        """Take over the list of all FineTuneJobs; return those of which something was not known or is gone.

        A list that is older than the one before is that of a server whose data were put back from a copy: all that was
        known of its future is forgotten.
        """
        forgotten = self._forget_all() if listing.version < self._listed else set()
        self._listed = listing.version
        return forgotten | _take(listing, self.finetunejobs, self._take_finetunejob, self.drop_finetunejob)

    def replace_jobs(self, listing: Listing[News]) -> set[Key]:
        """Take over the list of all child Jobs; return the FineTuneJobs to be looked at."""
        changed = _take(listing, self._jobs.items, partial(self._take_child, self._jobs), self.drop_job)
        self._jobs.forget_gone(listing.version)
        return changed

    def replace_pods(self, listing: Listing[News]) -> set[Key]:
        """Take over the list of all their Pods; return the FineTuneJobs to be looked at."""
        changed = _take(listing, self._pods.items, partial(self._take_child, self._pods), self.drop_pod)
        self._pods.forget_gone(listing.version)
        return changed

    def _forget_all(self) -> set[Key]:
        forgotten = set(self.finetunejobs)
        for key in forgotten:
            self._set_finetunejob(key, None)
        for store in (self._jobs, self._pods):
            for key in list(store.items):
                self._set_child(store, key, None)
            store.forget_gone()
        return forgotten


def _kept(known: Object | None, now: Object) -> Object:
    """Return what is to be kept of an object: what is known of it already, if it is the same still."""
    kept: Object = known if known == now and known is not None else lean(now)
    return kept


def _is_alike(known: Object | None, now: Object | None) -> bool:
    """Tell whether what is kept of an object has changed in nothing but its version."""
    if known is None or now is None:
        return False
    meta = {**now["metadata"], "resourceVersion": known["metadata"].get("resourceVersion")}
    return known == {**now, "metadata": meta}


def _take(
    listing: Listing[News],
    known: Mapping[Key, Object],
    put: Callable[[News], Key | None],
    drop: Callable[[Mapping[str, Any]], Key | None],
) -> set[Key]:
    """Take over a full list; return the FineTuneJobs to be looked at for what was not known or is gone."""
    there = {news.uid for news in listing.items}
    gone = [
        item for item in known.values() if item["metadata"]["uid"] not in there and version_of(item) <= listing.version
    ]
    changed = [*map(drop, gone), *map(put, listing.items)]
    return {key for key in changed if key is not None}


def _awaited(item: Object) -> set[_Unit]:
    """Return what a FineTuneJob waits for that is made elsewhere; nothing if it waits for none of that."""
    if ready_reason(item) != MADE_ELSEWHERE:
        return set()
    stages = item["status"].get("stages") or ()
    return {(item["metadata"]["namespace"], unit) for stage in stages for unit in stage.get("keys") or ()}


def _with_uid(job: Object) -> Object:
    return {**job, "metadata": {**job["metadata"], "uid": f"of {job['metadata']['name']}, which is to be created"}}


def _attempt(job: Mapping[str, Any]) -> int:
    text = label(job, keys.ATTEMPT_LABEL)
    return int(text) if text.isdecimal() else 0


def _age(item: Mapping[str, Any]) -> tuple[str, str]:
    return str(item["metadata"].get("creationTimestamp", "")), str(item["metadata"]["uid"])
