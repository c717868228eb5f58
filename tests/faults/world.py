"""A cluster in memory on which calls fail, events come late or never, clocks jump, and operators end anywhere.

What must hold at every moment is checked where it is written: a Job when it is created, a status when it is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from support.builders import job_data
from support.fake_cluster import Clock, FakeCluster, Programs
from tunesmith.api import keys
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.settings import Settings
from tunesmith.core.retries import LONGEST_DELAY
from tunesmith.kube.cache import Cache, Key
from tunesmith.kube.cluster import FINETUNEJOBS, JOBS, PODS, ApiError, Cluster, Listing, Object, Resource
from tunesmith.reconcile import Reconciler

NAMESPACE = "default"
NO_PODS: Mapping[str, Any] = {"register": {"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "1Gi"}}}}
"""What no pod can be made of: it asks for more than it may have."""
STAGES = ["fetch", "prepare", "rehearse", "train", "convert", "quantize", "register"]
_SETTINGS: Mapping[str, Any] = {
    "stageImage": "registry.example/tunesmith-stages:1",
    "servers": [{"name": "main", "url": "http://ollama:11434"}],
}
_ROUNDS = 120
_ROUND_SECONDS = 20
_Answer = TypeVar("_Answer")


class KilledError(BaseException):
    """The operator's process ends at this call."""


BEFORE: Mapping[str, Callable[[], BaseException]] = {
    "no answer": lambda: ApiError(0, "", "the connection was reset"),
    "gone": lambda: ApiError(410, "Expired", "too old resource version"),
    "too many": lambda: ApiError(429, "TooManyRequests", "slow down"),
    "broken": lambda: ApiError(500, "InternalError", "etcd has no leader"),
    "unavailable": lambda: ApiError(503, "ServiceUnavailable", "starting"),
    "forbidden": lambda: ApiError(403, "Forbidden", "RBAC: clusterrole not found"),
    "killed": KilledError,
}
"""What a call can fail with that had no effect."""
AFTER: Mapping[str, Callable[[], BaseException]] = {
    "no answer": lambda: ApiError(0, "", "the connection was reset"),
    "timeout": lambda: ApiError(504, "Timeout", "request did not complete within the allotted timeout"),
    "killed": KilledError,
}
"""What can be wrong with the answer to a call that had its effect."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one call."""

    error: BaseException
    took_effect: bool
    """Whether the server did what was asked; the answer alone was lost."""


class UnreliableCluster(Cluster):
    """Passes the calls of one operator on, but for those that fail."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self.faults: dict[int, Fault] = {}
        """By number of the call, from now on, what goes wrong with it."""
        self.calls = 0

    def fail(self, fault: Fault, after: int = 0) -> None:
        """Have a call fail, once `after` others have gone through."""
        self.faults[self.calls + after] = fault

    async def _ask(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        await asyncio.sleep(0)  # the other operator goes on meanwhile
        fault = self.faults.pop(self.calls, None)
        self.calls += 1
        if fault is None:
            return await call()
        if fault.took_effect:
            with suppress(ApiError):
                await call()
        raise fault.error

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        return await self._ask(lambda: self._cluster.get(resource, namespace, name))

    async def find(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        return await self._ask(lambda: self._cluster.find(resource, namespace, labels=labels, fields=fields))

    async def list_all(self, resource: Resource, namespace: str | None, *, labels: str = "") -> Listing:
        return await self._ask(lambda: self._cluster.list_all(resource, namespace, labels=labels))

    async def create(self, item: Object) -> Object:
        return await self._ask(lambda: self._cluster.create(item))

    async def delete(self, resource: Resource, namespace: str, name: str, *, foreground: bool = False) -> None:
        await self._ask(lambda: self._cluster.delete(resource, namespace, name, foreground=foreground))

    async def replace(self, item: Object) -> Object:
        return await self._ask(lambda: self._cluster.replace(item))

    async def replace_status(self, item: Object) -> Object:
        return await self._ask(lambda: self._cluster.replace_status(item))

    async def pod_log(self, namespace: str, pod: str, *, lines: int) -> str:
        return await self._ask(lambda: self._cluster.pod_log(namespace, pod, lines=lines))


@dataclass
class CheckedCluster(FakeCluster):
    """A cluster that takes nothing that must never be."""

    told_of: set[str] = field(default_factory=set)
    """Jobs that a status has named: the operator knows that it has created them."""
    done: dict[tuple[str, str, frozenset[str]], tuple[int, str]] = field(default_factory=dict)
    """By uid of a FineTuneJob, stage and keys: the generation in which a Job has made them, and its name."""

    async def create(self, item: Object) -> Object:
        """Create an object; a Job only if nobody else does its work, and if that is not known to be done."""
        if item["kind"] == "Job" and _key(item) not in self.objects:
            self._check_new_job(item)
        return await super().create(item)

    async def replace_status(self, item: Object) -> Object:
        """Write a status that does not go back behind the one that is there."""
        there = self.objects.get(_key(item))
        current = there is not None and there["metadata"]["resourceVersion"] == item["metadata"]["resourceVersion"]
        before = dict(there.get("status") or {}) if there is not None and current else {}
        written = await super().replace_status(item)
        self.told_of |= {stage["job"] for stage in item["status"]["stages"] if "job" in stage}
        check_progress(
            before, item["status"], edited=before.get("observedGeneration") != written["metadata"]["generation"]
        )
        return written

    def _check_new_job(self, job: Object) -> None:
        if is_lookup(job):
            return
        stage, wanted = stage_of(job), made_by(job)
        rivals = [
            other["metadata"]["name"]
            for other in self.jobs(stage)
            if is_active(other) and not is_lookup(other) and made_by(other) & wanted
        ]
        assert not rivals, f"{job['metadata']['name']} is created while {rivals} make the same"
        owner = job["metadata"]["ownerReferences"][0]["name"]
        known = self.objects.get(("FineTuneJob", job["metadata"]["namespace"], owner))
        if known is None or known["metadata"]["uid"] != job["metadata"]["ownerReferences"][0]["uid"]:
            return  # it was deleted meanwhile; the garbage collector takes what is created for it
        record = _stages(known.get("status") or {}).get(stage, {})
        done = {unit["key"] for unit in record.get("units") or ()} if record.get("state") == "Succeeded" else set()
        assert not done & wanted, f"{job['metadata']['name']} makes again what is done: {sorted(done & wanted)}"
        generation, by = self.done.get((known["metadata"]["uid"], stage, frozenset(wanted)), (0, ""))
        known_to_be_made = generation == known["metadata"]["generation"] and by in self.told_of
        assert not known_to_be_made, f"{job['metadata']['name']} makes again what {by} has made"

    def job_ends(self, job: Object) -> None:
        """Remember that a Job's program has made what it was to make."""
        owner, stage = job["metadata"]["ownerReferences"][0], stage_of(job)
        known = self.objects.get(("FineTuneJob", job["metadata"]["namespace"], owner["name"]))
        if (
            known is not None
            and known["metadata"]["uid"] == owner["uid"]
            and stage != "rehearse"
            and not is_lookup(job)
        ):
            made = owner["uid"], stage, frozenset(made_by(job))
            self.done[made] = known["metadata"]["generation"], job["metadata"]["name"]


def check_progress(before: Mapping[str, Any], after: Mapping[str, Any], *, edited: bool) -> None:
    """Check that a status does not go back behind the one before it.

    Args:
        before: the status that was there; empty if there was none.
        after: the one that takes its place.
        edited: whether the job was edited since `before` was written: then what was done may not be wanted any more.
    """
    assert after["observedGeneration"] >= before.get("observedGeneration", 0)
    asked_anew = any(before.get(name) != after.get(name) for name in ("refresh", "retry"))
    stages = _stages(after)
    for name, was in _stages(before).items():
        now = stages[name]
        if was.get("keys") == now.get("keys"):
            assert now.get("attempts", 0) >= was.get("attempts", 0), f"{name} forgets attempts"
        if edited or asked_anew or was["state"] != "Succeeded" or not was.get("units"):
            continue
        assert now["state"] == "Succeeded", f"{name} was done and is {now['state']}: {now.get('reason')}"
        assert now.get("units") == was["units"], f"the results of {name} change"


def _stages(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {item["name"]: item for item in status.get("stages") or ()}


def _key(item: Object) -> tuple[str, str, str]:
    return item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]


def stage_of(job: Object) -> str:
    return str(job["metadata"]["labels"][keys.STAGE_LABEL])


def made_by(job: Object) -> set[str]:
    """Return the content keys of what a Job is to make."""
    return set(filter(None, (job["metadata"].get("annotations") or {}).get(keys.KEYS_ANNOTATION, "").split(",")))


def is_lookup(job: Object) -> bool:
    return (job["metadata"].get("annotations") or {}).get(keys.LOOKUP_ANNOTATION) == "true"


def is_deleting(item: Object) -> bool:
    return bool(item["metadata"].get("deletionTimestamp"))


def is_active(job: Object) -> bool:
    """Tell whether a Job has neither ended nor been deleted."""
    return not (job.get("status") or {}).get("conditions") and not is_deleting(job)


class Replica:
    """One process of the operator. It hears of what happens when it is let."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.skew = timedelta()
        """By how much its clock is ahead."""
        self.dead = False
        self.inbox: list[tuple[str, Object]] = []
        self.api = UnreliableCluster(world.cluster)
        self.cache = Cache()
        self.reconciler = Reconciler(self.api, self.cache, world.settings, now=self.now, tell=lambda _item, _note: None)
        self.resync()

    def now(self) -> datetime:
        return self._world.clock.now() + self.skew

    def resync(self) -> None:
        """Take over full lists, as it does at its start and every few minutes; what was told before is older."""
        self.inbox.clear()

        async def lists() -> list[Listing]:
            return [await self._world.cluster.list_all(resource, None) for resource in (FINETUNEJOBS, JOBS, PODS)]

        finetunejobs, jobs, pods = asyncio.run(lists())
        self.cache.replace_finetunejobs(finetunejobs)
        self.cache.replace_jobs(jobs)
        self.cache.replace_pods(pods)

    def jump(self, seconds: float) -> None:
        """Have its clock jump."""
        self.skew += timedelta(seconds=seconds)

    def hear(self, number: int) -> None:
        """Take in one of the events that wait; those of one object come in their order."""
        _, item = self.inbox[number]
        first = next(
            at for at, (_, other) in enumerate(self.inbox) if other["metadata"]["uid"] == item["metadata"]["uid"]
        )
        self.take(*self.inbox.pop(first))

    def hear_all(self) -> None:
        while self.inbox:
            self.take(*self.inbox.pop(0))

    def take(self, kind: str, item: Object) -> None:
        known: dict[str, Any] = {
            "FineTuneJob": (self.cache.put_finetunejob, self.cache.drop_finetunejob),
            "Job": (self.cache.put_job, self.cache.drop_job),
            "Pod": (self.cache.put_pod, self.cache.drop_pod),
        }
        if item["kind"] in known:
            known[item["kind"]][kind == "DELETED"](item)

    async def look(self, key: Key) -> float | None:
        """Bring a FineTuneJob a step further; what fails is tried again at the next look, as the work queue has it."""
        try:
            return await self.reconciler.reconcile(key)
        except ApiError:
            return 0.0
        except KilledError:
            self.dead = True
            return None


class World:
    """Operators, the cluster, its programs and its users."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cluster = CheckedCluster(self.clock)
        self.programs = Programs(self.cluster)
        self.settings = Settings.model_validate(_SETTINGS)
        self.cluster.listener = self._tell
        self.replicas: list[Replica] = [Replica(self)]
        self.failed_with: set[str] = set()
        """Reasons with which programs have failed for good."""
        self.served: dict[str, set[str]] = {}
        """By uid of a FineTuneJob, the keys of what its model's name stands for on the server."""

    def _tell(self, kind: str, item: Object) -> None:
        for replica in getattr(self, "replicas", ()):
            replica.inbox.append((kind, item))

    # --- users

    def apply(self, name: str, changes: Mapping[str, Any] | None = None) -> None:
        """Create a FineTuneJob as the API server holds it: with its defaults."""
        given = {"metadata.name": name, "metadata.namespace": NAMESPACE, "spec.ollama.model": f"{name}:v1"}
        data = job_data({**given, **(changes or {})})
        whole = FineTuneJob.model_validate(data).model_dump(mode="json", by_alias=True, exclude_none=True)
        self.cluster.put_new({**whole, "metadata": {"name": name, "namespace": NAMESPACE}})

    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.cluster.of_kind("FineTuneJob")]

    def edit(self, name: str, change: Callable[[Object], object]) -> None:
        self.cluster.edit(name, change, NAMESPACE)

    def delete(self, name: str) -> None:
        """Delete a FineTuneJob; the garbage collector follows."""
        self.cluster.remove(self.cluster.objects[("FineTuneJob", NAMESPACE, name)])

    # --- operators

    def look(self, *names: str) -> None:
        """Have every operator look at FineTuneJobs, all at once."""

        async def at_once() -> None:
            await asyncio.gather(*(replica.look(Key(NAMESPACE, name)) for replica in self.replicas for name in names))

        asyncio.run(at_once())
        self.replicas = [replica for replica in self.replicas if not replica.dead] or [Replica(self)]

    # --- the cluster

    def active(self) -> list[Object]:
        return [job for job in self.cluster.jobs() if is_active(job)]

    def pods_of(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [pod for pod in self.cluster.of_kind("Pod") if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def finish(self, job: Object) -> None:
        """Have an active Job's program do its work and end."""
        fails = bool(self.programs.failures.get(stage_of(job)))
        self.programs.finish(job)
        if not fails:
            self.cluster.job_ends(job)
            self._serve(job)

    def start(self, number: int) -> None:
        """Start the program of an active Job that has no Pod yet; what one registers is served at once."""
        waiting = [job for job in self.active() if not self.pods_of(job)]
        if waiting:
            job = waiting[number % len(waiting)]
            self.programs.start(job)
            self._serve(job)

    def _serve(self, job: Object) -> None:
        if stage_of(job) == "register" and not is_lookup(job):
            self.served[job["metadata"]["ownerReferences"][0]["uid"]] = made_by(job)

    def collect_garbage(self) -> None:
        """Let what is deleted go, and what nobody owns any more."""
        for job in [job for job in self.cluster.jobs() if is_deleting(job)]:
            self.cluster.remove(job)
        uids = {item["metadata"]["uid"] for item in self.cluster.objects.values()}
        for item in list(self.cluster.objects.values()):
            owners = item["metadata"].get("ownerReferences") or ()
            if owners and not any(owner["uid"] in uids for owner in owners):
                self.cluster.remove(item)

    # --- the end

    def calm_down(self) -> None:
        """Let everything go well from now on, until nothing changes any more."""
        self.programs.failures.clear()
        for replica in self.replicas:
            replica.api.faults.clear()
            replica.skew = timedelta()
            replica.resync()
        self.live()

    def live_until(self, stage: str) -> None:
        """Let all go well until a Job of a stage is there."""
        while not self.cluster.jobs(stage):
            for replica in self.replicas:
                replica.hear_all()
            self.look(*self.names())
            if not self.cluster.jobs(stage):
                for job in self.active():
                    self.finish(job)

    def live(self) -> None:
        """Let operators and programs go on until nothing changes any more."""
        quiet = 0
        for _ in range(_ROUNDS):
            before = self.cluster.version
            for replica in self.replicas:
                replica.hear_all()
            self.look(*self.names())
            self.collect_garbage()
            for job in self.active():
                self.finish(job)
            self.clock.forward(_ROUND_SECONDS)
            quiet = quiet + 1 if self.cluster.version == before else 0
            if quiet and all(self.ready(name)[0] == "True" for name in self.names()):
                return
            if quiet * _ROUND_SECONDS > LONGEST_DELAY:
                return
        raise AssertionError(f"it never comes to rest: {[self.ready(name) for name in self.names()]}")

    def ready(self, name: str) -> tuple[str, str]:
        """Return status and reason of a FineTuneJob's condition Ready."""
        return self._condition(name, "Ready")

    def stalled(self, name: str) -> bool:
        return self._condition(name, "Stalled")[0] == "True"

    def _condition(self, name: str, kind: str) -> tuple[str, str]:
        conditions = self.cluster.status(name, NAMESPACE).get("conditions") or ()
        return next(((item["status"], item["reason"]) for item in conditions if item["type"] == kind), ("Unknown", ""))

    def check_end(self) -> None:
        """Check that every FineTuneJob is where it should be after :meth:`calm_down`, and that nothing is left over."""
        for name in self.names():
            item = self.cluster.objects[("FineTuneJob", NAMESPACE, name)]
            status, reason = self.ready(name)
            if status == "True":
                assert item["status"]["observedGeneration"] == item["metadata"]["generation"]
                assert self.served[item["metadata"]["uid"]] == set(_stages(item["status"])["register"]["keys"]), name
            elif item["spec"].get("suspend"):
                assert reason == "Suspended", (name, reason)
            elif item["spec"].get("pods"):
                assert self.stalled(name), (name, reason)
                assert reason in {"PodsInvalid", *self.failed_with}, (name, reason)
            else:
                assert self.stalled(name), (name, reason)
                assert reason in self.failed_with, (name, reason, self.failed_with)
        assert self.active() == []
        assert self.cluster.of_kind("ConfigMap") == []
        assert self.cluster.of_kind("Service") == []
