"""A cluster in memory, for tests of the operator's decisions.

It is an API with resource versions, and stage programs that make what their stage.json asks for in no time, on a volume
that outlives every object. It knows nothing of the operator: it only sees the objects that are created.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from tunesmith.core.times import to_text
from tunesmith.kube.cache import Cache, Key
from tunesmith.kube.cluster import BY_KIND, ApiError, Cluster, Listing, Object, Resource, T
from tunesmith.running_logs import RunningLogs
from tunesmith_stages.contract import (
    ExitCode,
    Failure,
    Input,
    Report,
    StageConfig,
    StageName,
    UnitReport,
    content_key,
)

Listener = Callable[[str, Object], None]
Json = TypeVar("Json")


def copy_of(value: Json) -> Json:
    """Return a copy of an object as JSON has it, all the way down."""
    copied: Json = json.loads(json.dumps(value))
    return copied


def hear(cache: Cache, kind: str, item: Object) -> Key | None:
    """Have an operator's cache hear of a change, as its watches do; return the FineTuneJob to be looked at for it."""
    known: dict[str, Any] = {
        "FineTuneJob": (cache.put_finetunejob, cache.drop_finetunejob),
        "Job": (cache.put_job, cache.drop_job),
        "Pod": (cache.put_pod, cache.drop_pod),
    }
    if item["kind"] not in known:
        return None
    told: Key | None = known[item["kind"]][kind == "DELETED"](item)
    return told


def made_from(job: Object) -> tuple[dict[str, str], dict[str, str]]:
    """Return labels and annotations of a Job's Pods: unlike its own, nobody can change them any more."""
    meta = job["spec"]["template"]["metadata"]
    return dict(meta["labels"]), dict(meta["annotations"])


def removes(job: Object) -> bool:
    """Tell whether a Job removes the models of a FineTuneJob that is being deleted."""
    return made_from(job)[1].get("tunesmith.dev/removal") == "true"


@dataclass
class Clock:
    """A clock that the test moves."""

    time: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    passed: float = 0.0
    """Seconds; unlike the time it is never put back."""

    def now(self) -> datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.passed += max(seconds, 0.0)


@dataclass
class FakeCluster:
    """Implements ``tunesmith.kube.cluster.Cluster`` in memory; `listener` is told of every change, as a watch is."""

    clock: Clock
    listener: Listener = lambda _type, _item: None
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    refuse: Callable[[str, Object], ApiError | None] = lambda _verb, _item: None
    logs: dict[str, str] = field(default_factory=dict)

    finds: list[str] = field(default_factory=list)
    """Kinds that were searched, one for each time."""
    version: int = 0
    """Resource version of the newest change."""
    terminating: set[str] = field(default_factory=set)
    """Namespaces that are being deleted: nothing can be created in them any more."""

    # --- the operator's side

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        self.calls.append(("get", resource.kind, name))
        await asyncio.sleep(0)  # others go on meanwhile
        return copy_of(self.objects.get((resource.kind, namespace, name)))

    async def find(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        self.finds.append(resource.kind)
        uid = fields.partition("involvedObject.uid=")[2]
        return [
            copy_of(item)
            for (kind, where, _), item in self.objects.items()
            if kind == resource.kind
            and namespace in {None, where}
            and _selected(labels, item)
            and (not uid or item["involvedObject"]["uid"] == uid)
        ]

    async def list_all(
        self, resource: Resource, namespace: str | None, read: Callable[[Object], T], *, labels: str = ""
    ) -> Listing[T]:
        return Listing([read(item) for item in await self.find(resource, namespace, labels=labels)], self.version)

    async def create(self, item: Object) -> Object:
        self.calls.append(("create", item["kind"], item["metadata"]["name"]))
        if (error := self.refuse("create", item)) is not None:
            raise error
        return self.put_new(item)

    async def delete(self, resource: Resource, namespace: str, name: str, *, foreground: bool = False) -> None:
        self.calls.append(("delete", resource.kind, name))
        item = self.objects.get((resource.kind, namespace, name))
        if item is None:
            return
        if foreground and self._owned(item):
            item["metadata"]["deletionTimestamp"] = to_text(self.clock.now())
            self.changed(item)
            return
        self.remove(item)

    async def replace_status(self, item: Object) -> Object:
        self.calls.append(("status", item["kind"], item["metadata"]["name"]))
        key = (item["kind"], item["metadata"]["namespace"], item["metadata"]["name"])
        there = self.objects.get(key)
        if there is None:
            raise ApiError(404, "NotFound", "gone")
        if there["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        there["status"] = copy_of(item["status"])
        return self.changed(there)

    async def replace(self, item: Object) -> Object:
        raise NotImplementedError("nothing but a Lease is replaced as a whole")

    async def set_finalizers(self, item: Object, finalizers: list[str]) -> Object:
        self.calls.append(("finalizers", item["kind"], item["metadata"]["name"]))
        if (error := self.refuse("patch", item)) is not None:
            raise error
        there = self.objects.get((item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]))
        if there is None or there["metadata"]["uid"] != item["metadata"]["uid"]:
            raise ApiError(404, "NotFound", "gone")
        if there["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        there["metadata"]["finalizers"] = list(finalizers)
        written = self.changed(there)
        if there["metadata"].get("deletionTimestamp") and not finalizers:
            self.remove(there)
        return written

    async def pod_log(self, namespace: str, pod: str, *, lines: int) -> str:  # noqa: ARG002 - the protocol has it
        if pod not in self.logs:
            raise ApiError(500, "InternalError", "the kubelet cannot be reached")
        return "\n".join(self.logs[pod].splitlines()[-lines:])

    # --- everybody else's side

    def put_new(self, item: Object) -> Object:
        meta = item["metadata"]
        key = (item["kind"], meta["namespace"], meta["name"])
        if key in self.objects:
            raise ApiError(409, "AlreadyExists", f"{meta['name']} already exists")
        if meta["namespace"] in self.terminating:
            ends = f"unable to create new content in namespace {meta['namespace']} because it is being terminated"
            raise ApiError(403, "Forbidden", f"{meta['name']} is forbidden: {ends}")
        made = copy_of(item)
        number = self._next_version()
        made["metadata"] |= {
            "uid": f"uid-{number}",
            "generation": 1,
            "creationTimestamp": to_text(self.clock.now()),
        }
        self.objects[key] = made
        return self.changed(made, "ADDED")

    def _next_version(self) -> int:
        self.version += 1
        return self.version

    def changed(self, item: Object, kind: str = "MODIFIED") -> Object:
        item["metadata"]["resourceVersion"] = str(self._next_version())
        self.listener(kind, copy_of(item))
        return copy_of(item)

    def edit(self, name: str, change: Callable[[Object], object], namespace: str = "default") -> None:
        """Change a FineTuneJob as a user does."""
        item = self.objects[("FineTuneJob", namespace, name)]
        before = json.dumps(item["spec"])
        change(item)
        if json.dumps(item["spec"]) != before:
            item["metadata"]["generation"] += 1
        self.changed(item)

    def delete_job(self, name: str, namespace: str = "default") -> None:
        """Delete a FineTuneJob as a user does: it stays as long as it has finalizers."""
        item = self.objects[("FineTuneJob", namespace, name)]
        if not item["metadata"].get("finalizers"):
            self.remove(item)
        elif not item["metadata"].get("deletionTimestamp"):
            item["metadata"]["deletionTimestamp"] = to_text(self.clock.now())
            self.changed(item)

    def remove(self, item: Object) -> None:
        """Delete an object and what it owns, as the garbage collector does; that is told with versions of their own."""
        meta = item["metadata"]
        self.objects.pop((item["kind"], meta["namespace"], meta["name"]), None)
        for owned in self._owned(item):
            self.remove(owned)
        item["metadata"]["resourceVersion"] = str(self._next_version())
        self.listener("DELETED", copy_of(item))

    def _owned(self, item: Object) -> list[Object]:
        uid = item["metadata"]["uid"]
        return [
            other
            for other in list(self.objects.values())
            if any(ref["uid"] == uid for ref in other["metadata"].get("ownerReferences") or ())
        ]

    def of_kind(self, kind: str) -> list[Object]:
        return [item for (known, _, _), item in self.objects.items() if known == kind]

    def pods_of(self, job: Object) -> list[Object]:
        """Return the Pods of a Job."""
        return [pod for pod in self.of_kind("Pod") if pod["metadata"]["ownerReferences"][0]["uid"] == _uid(job)]

    def jobs(self, stage: str = "") -> list[Object]:
        """Return child Jobs, oldest first."""
        found = self.of_kind("Job")
        return [job for job in found if not stage or made_from(job)[0]["tunesmith.dev/stage"] == stage]

    def status(self, name: str, namespace: str = "default") -> dict[str, Any]:
        return dict(self.objects[("FineTuneJob", namespace, name)].get("status") or {})


class LogReader:
    """Reads the logs of the programs that run, as the operator's readers do, by the test's clock."""

    def __init__(self, cluster: Cluster, clock: Clock, wake: Callable[[Key], None]) -> None:
        self.logs = RunningLogs(cluster, read_after=self._read_after, wake=wake)
        self._clock = clock
        self._due: dict[Key, float] = {}

    def _read_after(self, key: Key, seconds: float) -> None:
        due = self._clock.passed + seconds
        self._due[key] = min(due, self._due.get(key, due))

    async def read_due(self) -> None:
        """Read those whose time has come."""
        for key in [key for key, due in self._due.items() if due <= self._clock.passed]:
            del self._due[key]
            await self.logs.read(key)


@dataclass
class Programs:
    """What runs the child Jobs of a :class:`FakeCluster`: each program does what its stage.json asks for, at once."""

    cluster: FakeCluster
    volume: dict[str, UnitReport] = field(default_factory=dict)
    """By whole key, what is on the volume."""
    versions: dict[str, str] = field(default_factory=dict)
    """By source, its version."""
    failures: dict[str, list[Failure]] = field(default_factory=dict)
    """By stage, what its next programs fail with."""
    ran: list[str] = field(default_factory=list)
    """Stages whose programs made something, in order; ``lookup`` for a look-up, ``removal`` for one from Ollama."""
    skew: timedelta = timedelta()
    """By how much the nodes' clocks are ahead."""
    _started: dict[str, StageConfig] = field(default_factory=dict)

    def start(self, job: Object) -> Object:
        """Create the Pod of a Job and have its program run."""
        pod = self.pending(job)
        pod["status"] = {
            "phase": "Running",
            "containerStatuses": [{"name": "stage", "state": {"running": {"startedAt": self._node_time()}}}],
        }
        self.cluster.changed(pod)
        self._started[_uid(job)] = self.config(job)
        return pod

    def _node_time(self) -> str:
        return to_text(self.cluster.clock.now() + self.skew)

    def pending(self, job: Object, **status: Any) -> Object:
        meta = job["metadata"]
        number = len([pod for pod in self.cluster.of_kind("Pod") if pod["metadata"]["name"].startswith(meta["name"])])
        made: Object = {
            "kind": "Pod",
            "metadata": {
                "name": f"{meta['name']}-{number}",
                "namespace": meta["namespace"],
                "labels": {
                    **job["spec"]["template"]["metadata"]["labels"],
                    "batch.kubernetes.io/controller-uid": meta["uid"],
                },
                "annotations": dict(job["spec"]["template"]["metadata"]["annotations"]),
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": meta["name"],
                        "uid": meta["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": copy_of(job["spec"]["template"]["spec"]),
            "status": {"phase": "Pending", **status},
        }
        self.cluster.put_new(made)
        return self.cluster.objects[("Pod", meta["namespace"], made["metadata"]["name"])]

    def config(self, job: Object) -> StageConfig:
        meta = job["metadata"]
        held = self.cluster.objects[("ConfigMap", meta["namespace"], meta["name"])]
        return StageConfig.from_json(held["data"]["stage.json"])

    def finish(self, job: Object) -> None:
        """Have a Job's program do its work and end; the Job's own conditions follow."""
        config = self._started.get(_uid(job)) or self.config(job)
        pods = self.cluster.pods_of(job)
        pod = pods[-1] if pods else self.start(job)
        looks_up = made_from(job)[1].get("tunesmith.dev/lookup") == "true"
        waiting = self.failures.get(str(config.stage)) or []
        if waiting and not looks_up:
            failure = waiting.pop(0)
            self.end(job, pod, Report(failure=failure), int(failure.code))
            return
        if removes(job):
            self.ran.append("removal")
            names = sum(map(len, config.runtime["names"].values()))
            self.end(job, pod, Report(numbers={"removed": names}), 0)
            return
        self.ran.append("lookup" if looks_up else str(config.stage))
        self.end(job, pod, Report(units=tuple(self._report(config, make=not looks_up)), numbers={"loss": 0.5}), 0)

    def _report(self, config: StageConfig, *, make: bool) -> Iterable[UnitReport]:
        roles = dict(config.known)
        for unit in config.units:
            version = self.versions.get(unit.name, "")
            if "job" in unit.params.get("source", ()):
                version = unit.params["refresh"] or version  # the real one takes what it is told, too
            resolve = config.stage is StageName.FETCH and config.runtime.get("resolve")
            params = {**unit.params, "refresh": version} if resolve else unit.params
            key = content_key(config.stage, params, unit.inputs) if resolve else unit.key
            there = self.volume.get(key)
            if there is None and not make:
                continue
            made = there or UnitReport(key[:16], _digest(config.stage, unit.name, key, version), 100)
            if config.stage is not StageName.REHEARSE:
                self.volume[key] = made
            yield UnitReport(unit.key[:16], made.digest, made.bytes, cached=there is not None, version=version)
            if unit.role:
                roles[unit.role] = Input("somewhere", made.digest)
        for later in config.later:
            if any(role not in roles for role in later.needs):
                continue
            key = content_key(later.stage, later.params, {role: roles[role] for role in later.needs})
            if (found := self.volume.get(key)) is not None:
                roles[later.role] = Input("somewhere", found.digest)
                yield UnitReport(key[:16], found.digest, found.bytes, cached=True)

    def end(self, job: Object, pod: Object, report: Report | None, code: int, **status: Any) -> None:
        """End a Job's Pod, and the Job with it."""
        before: list[Any] = pod["status"].get("containerStatuses") or [{}]
        running: dict[str, str] = before[0].get("state", {}).get("running", {})
        ended: dict[str, Any] = {
            "exitCode": code,
            "startedAt": running.get("startedAt", self._node_time()),
            "finishedAt": self._node_time(),
        }
        if report is not None:
            ended["message"] = report.to_json()
        pod["status"] = {
            "phase": "Succeeded" if code == 0 else "Failed",
            "containerStatuses": [{"name": "stage", "state": {"terminated": ended}}],
            **status,
        }
        self.cluster.changed(pod)
        self.conclude(job, "Complete" if code == 0 else "Failed")

    def conclude(self, job: Object, kind: str, reason: str = "") -> None:
        job["status"] = {"conditions": [{"type": kind, "status": "True", "reason": reason}]}
        self.cluster.changed(job)

    def evict(self, job: Object) -> None:
        """End a Job's Pod as an eviction does."""
        pods = self.cluster.pods_of(job)
        disrupted = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
        self.end(job, pods[-1], None, 143, conditions=disrupted)


def _selected(selector: str, item: Object) -> bool:
    """Tell whether an object has a label, or one with the value that the selector names."""
    name, _, value = selector.partition("=")
    labels = item["metadata"].get("labels") or {}
    return not selector or (name in labels and value in {"", labels[name]})


def _uid(job: Object) -> str:
    return str(job["metadata"]["uid"])


def _digest(stage: StageName, name: str, key: str, version: str) -> str:
    """Return what a program makes: a source's content is its version, everything else follows from the key."""
    made_of = f"{name} {version}" if stage is StageName.FETCH else key
    return hashlib.sha256(made_of.encode()).hexdigest()


def failure(code: ExitCode, reason: str, message: str = "it failed", hint: str = "mend it") -> Failure:
    return Failure(code, reason, message, hint)


__all__ = ["BY_KIND", "Clock", "FakeCluster", "LogReader", "Programs", "failure", "hear", "made_from", "removes"]
