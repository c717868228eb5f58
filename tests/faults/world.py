"""A cluster in memory on which calls fail, events come late or never, clocks jump, and operators end anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from faults.checked import CheckedCluster, is_active, is_deleting, is_lookup, is_owned, made_by, stage_of, stages_of
from faults.unreliable import KilledError, UnreliableCluster
from support.builders import job_data
from support.fake_cluster import Clock, LogReader, Programs, copy_of, hear, made_from, removes
from tunesmith.api import keys
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.core.manifests import lookup_name
from tunesmith.core.removal import is_wanted
from tunesmith.core.times import to_text
from tunesmith.kube.cache import Cache, Key
from tunesmith.kube.cluster import FINETUNEJOBS, JOBS, PODS, ApiError, Listing, Object
from tunesmith.kube.items import News
from tunesmith.reconcile import Reconciler
from tunesmith_stages.reasons.retry import LATER

NAMESPACE = "default"
NO_PODS: Mapping[str, Any] = {"register": {"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "1Gi"}}}}
"""What no pod can be made of: it asks for more than it may have."""
STAGES = ["fetch", "prepare", "rehearse", "train", "convert", "quantize", "register"]
_NO_PLACE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient memory"}
_NO_SECRET = {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}
_NO_IMAGE = {"reason": "ErrImagePull", "message": "not found"}
HELD_UP: Mapping[str, Mapping[str, Any] | None] = {
    "Unschedulable": {"conditions": [_NO_PLACE]},
    "ImagePullBackOff": {"containerStatuses": [{"name": "stage", "state": {"waiting": _NO_IMAGE}}]},
    "SecretNotFound": {"containerStatuses": [{"name": "stage", "state": {"waiting": _NO_SECRET}}]},
    "QuotaExceeded": None,
    "Queued": None,
}
"""What can hold up a stage, by the reason that must be told, and what the Pod says; None: there is no Pod."""
_ROUNDS = 120
_ROUND_SECONDS = 20
_RESYNC_ROUNDS = 15


class Replica:
    """One process of the operator. It hears of what happens when it is let."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.skew = timedelta()
        """By how much its clock is ahead."""
        self.dead = False
        self.misses = False
        """Whether there is something that it has not been told of, and never will be before the next full list."""
        self.inbox: list[tuple[str, Object]] = []
        self.due: dict[Key, datetime] = {}
        """When a FineTuneJob is to be looked at, as the work queue has it: whoever is not in it is not looked at."""
        self.api = UnreliableCluster(world.cluster, world.asked)
        self.cache = Cache(wake=self.wake)
        settings = world.cluster.settings
        self.reader = LogReader(self.api, world.clock, wake=self.wake)
        self.reconciler = Reconciler(
            self.api, self.cache, settings, now=self.now, tell=lambda _item, _note: None, logs=self.reader.logs
        )
        self.resync()

    def now(self) -> datetime:
        return self._world.clock.now() + self.skew

    def resync(self) -> None:
        """Take over full lists, as it does at its start and every few minutes; older events may still be on their way.

        If one of them cannot be had, nothing is taken over.

        A watch gives Jobs and Pods by their label only, and so do the lists.
        """

        async def lists() -> list[Listing[News]]:
            ours = {
                FINETUNEJOBS: (self.cache.read_finetunejob, ""),
                JOBS: (self.cache.read_job, keys.UID_LABEL),
                PODS: (self.cache.read_pod, keys.UID_LABEL),
            }
            return [await self.api.list_all(kind, None, read, labels=labels) for kind, (read, labels) in ours.items()]

        try:
            finetunejobs, jobs, pods = asyncio.run(lists())
        except ApiError:
            return
        except KilledError:
            self.dead = True
            return
        changed = self.cache.replace_finetunejobs(finetunejobs)
        changed |= self.cache.replace_jobs(jobs)
        changed |= self.cache.replace_pods(pods)
        self.api.listed = self._world.cluster.version
        for key in sorted(changed):
            self.wake(key)
        # That something is gone, has lost its label or is somebody else's by now is told by the list. Would it come
        # once more, from a watch, it would be the same.
        self.inbox = [event for event in self.inbox if not self._is_gone(event[1])]
        self.misses = False

    def _is_gone(self, item: Object) -> bool:
        return not any(
            item["metadata"]["uid"] == there["metadata"]["uid"] and not (is_hidden(there) or is_stolen(there))
            for there in self._world.objects()
        )

    def jump(self, seconds: float) -> None:
        """Have its clock jump."""
        self.skew += timedelta(seconds=seconds)

    def hear(self, number: int, *, again: bool) -> None:
        """Take in one of the events that wait, whatever was told before it; `again`: it will come once more.

        What an object was before it was deleted is not told after that.
        """
        kind, item = event = self.inbox.pop(number)
        if kind == "DELETED":
            self.inbox = [other for other in self.inbox if other[1]["metadata"]["uid"] != item["metadata"]["uid"]]
        elif again:
            self.inbox.append(event)
        if (key := hear(self.cache, kind, item)) is not None:
            self.wake(key)

    def wake(self, key: Key, seconds: float = 0.0) -> None:
        """Have a FineTuneJob looked at in so many seconds at the latest, whatever this replica's own clock says."""
        due = self._world.clock.now() + timedelta(seconds=seconds)
        self.due[key] = min(due, self.due.get(key, due))

    def hear_all(self) -> None:
        while self.inbox:
            self.hear(-1 if self._world.newest_first else 0, again=False)

    def miss(self, number: int) -> None:
        """Never hear of one of the events that wait."""
        del self.inbox[number]
        self.misses = True

    async def look(self, key: Key) -> None:
        """Bring a FineTuneJob a step further; what fails is tried again at the next look, as the work queue has it."""
        self.due.pop(key, None)
        try:
            wake = await self.reconciler.reconcile(key)
        except ApiError:
            wake = 0.0
        except KilledError:
            self.dead = True
            return
        if wake is not None:
            self.wake(key, wake)

    async def look_at_due(self) -> None:
        """Look at every FineTuneJob of which there is news, or whose time has come."""
        try:
            await self.reader.read_due()
        except KilledError:
            self.dead = True
            return
        now = self._world.clock.now()
        for key in [key for key, due in self.due.items() if due <= now]:
            await self.look(key)


def is_hidden(item: Object) -> bool:
    """Tell whether watches and lists of Jobs and Pods, which go by the label, leave this one out."""
    return item["kind"] in {"Job", "Pod"} and keys.UID_LABEL not in (item["metadata"].get("labels") or {})


def is_stolen(item: Object) -> bool:
    """Tell whether this is a Job that somebody else has taken from the operator."""
    return item["kind"] == "Job" and not is_owned(item)


class World:
    """Operators, the cluster, its programs and its users."""

    def __init__(self, *, newest_first: bool = False) -> None:
        """`newest_first`: what was told since an operator heard last, it hears in the opposite order."""
        self.newest_first = newest_first
        self.clock = Clock()
        self.cluster = CheckedCluster(self.clock)
        self.programs = Programs(self.cluster)
        self.cluster.listener = self._tell
        self.asked: list[tuple[str, str]] = []
        """Verb and kind of each call of the operators."""
        self.replicas: list[Replica] = []
        self.replicas.append(Replica(self))
        self.failed: dict[tuple[str, str], str] = {}
        """By uid of a FineTuneJob and stage, the reason with which its program has failed for good last."""
        self.served: dict[str, set[str]] = {}
        """By uid of a FineTuneJob, the keys of what its model's name stands for on the server."""
        self.held: dict[str, str] = {}
        """By stage, what holds up its Pods, for as long as it is here."""
        self._unlabelled: set[str] = set()
        self._removed: set[str] = set()
        """Names of Jobs that somebody else has removed."""
        self._to_go: set[str] = set()
        """By uid, the deleted FineTuneJobs whose models are to go with them."""
        self._have_served: set[str] = set()
        """By uid, the FineTuneJobs whose models have ever been on the server."""

    def _tell(self, kind: str, item: Object) -> None:
        uid = item["metadata"]["uid"]
        if is_hidden(item):
            if uid in self._unlabelled:
                return  # the watch, which is for those with the label, has told that it is gone
            self._unlabelled.add(uid)
            kind = "DELETED"
        for replica in self.replicas:
            replica.inbox.append((kind, item))

    def objects(self) -> list[Object]:
        return list(self.cluster.objects.values())

    # --- users

    def apply(self, name: str, changes: Mapping[str, Any] | None = None) -> None:
        """Create a FineTuneJob as the API server holds it: with its defaults."""
        given = {"metadata.name": name, "metadata.namespace": NAMESPACE, "spec.ollama.model": f"{name}:v1"}
        data = job_data({**given, **(changes or {})})
        whole = FineTuneJob.model_validate(data).model_dump(mode="json", by_alias=True, exclude_none=True)
        self.cluster.put_new({**whole, "metadata": {"name": name, "namespace": NAMESPACE}})

    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self._jobs()]

    def _jobs(self) -> list[Object]:
        return self.cluster.of_kind("FineTuneJob")

    def edit(self, name: str, change: Callable[[Object], object]) -> None:
        self.cluster.edit(name, change, NAMESPACE)
        self._see_whether_models_go(self.cluster.objects["FineTuneJob", NAMESPACE, name])

    def delete(self, name: str) -> None:
        """Delete a FineTuneJob, which stays while it has a finalizer; the garbage collector follows."""
        item = self.cluster.objects["FineTuneJob", NAMESPACE, name]
        self.cluster.delete_job(name, NAMESPACE)
        self._see_whether_models_go(item)

    def _see_whether_models_go(self, item: Object) -> None:
        """Remember it of a deleted FineTuneJob. Where the namespace goes as well nobody can be told what is left."""
        self._to_go.discard(item["metadata"]["uid"])
        if is_deleting(item) and is_wanted(item) and not self.cluster.terminating:
            self._to_go.add(item["metadata"]["uid"])

    def delete_namespace(self) -> None:
        self.cluster.terminating.add(NAMESPACE)
        self._to_go.clear()

    def namespace_goes_on(self, number: int) -> bool:
        """Delete one of the objects of a namespace that is being deleted, whatever owns it or is owned by it.

        Tells whether there was one: what has a finalizer stays.
        """
        there = [item for item in self.objects() if not (is_deleting(item) and item["metadata"].get("finalizers"))]
        if there:
            item = there[number % len(there)]
            if item["metadata"].get("finalizers"):
                self.cluster.delete_job(item["metadata"]["name"], NAMESPACE)
            else:
                del self.cluster.objects[item["kind"], NAMESPACE, item["metadata"]["name"]]
                self._tell("DELETED", copy_of(item))
        if not self.cluster.objects:
            self.cluster.terminating.clear()
        return bool(there)

    # --- operators

    def resync(self, replica: Replica) -> None:
        """Have an operator list everything."""
        replica.resync()
        self._replace_dead()

    def look(self, *names: str) -> None:
        """Have every operator look at FineTuneJobs, all at once."""

        async def at_once() -> None:
            await asyncio.gather(*(replica.look(Key(NAMESPACE, name)) for replica in self.replicas for name in names))

        asyncio.run(at_once())
        self._replace_dead()

    def look_at_due(self) -> None:
        """Have every operator look at what it would look at by itself now."""

        async def at_once() -> None:
            await asyncio.gather(*(replica.look_at_due() for replica in self.replicas))

        asyncio.run(at_once())
        self._replace_dead()

    def _replace_dead(self) -> None:
        self.replicas = [replica for replica in self.replicas if not replica.dead] or [Replica(self)]

    # --- the cluster

    def active(self) -> list[Object]:
        return [job for job in self.cluster.jobs() if is_active(job)]

    def finish(self, job: Object, reason: str = "") -> None:
        """Have an active Job's program do its work and end, if nothing holds it up; `reason`: it fails for good."""
        if not self._can_run(job):
            return
        fails = bool(self.programs.failures.get(stage_of(job)))
        self.programs.finish(job)
        if reason:
            self.failed[made_from(job)[0][keys.UID_LABEL], stage_of(job)] = reason
        if not fails:
            self.cluster.job_ends(job)
            self._serve(job)

    def start(self, job: Object) -> None:
        """Start the program of an active Job, if nothing holds it up; what one registers is served at once."""
        if self._can_run(job) and not self._runs(job):
            for pod in self.cluster.pods_of(job):
                self.cluster.remove(pod)
            self.programs.start(job)
            if not removes(job):
                self._serve(job)

    def _runs(self, job: Object) -> bool:
        return any(pod["status"].get("phase") == "Running" for pod in self.cluster.pods_of(job))

    def _can_run(self, job: Object) -> bool:
        """Tell whether a Job's program can run, or does; if not, the cluster says why not."""
        if self._runs(job):
            return True
        why = self.held.get(stage_of(job), "")
        if (job["spec"].get("suspend") is True) != (why == "Queued"):
            job["spec"]["suspend"] = why == "Queued"
            self.cluster.changed(job)
        if why and HELD_UP[why] is None:
            for pod in self.cluster.pods_of(job):
                self.cluster.remove(pod)
        pods, meta = self.cluster.pods_of(job), job["metadata"]
        if (status := HELD_UP.get(why)) is not None and not self.cluster.terminating:
            pod = pods[0] if pods else self.programs.pending(job)
            shown = {"phase": "Pending", **copy_of(dict(status))}
            if pod["status"] != shown:
                pod["status"] = shown
                self.cluster.changed(pod)
        elif why == "QuotaExceeded" and not pods and not self.cluster.terminating:
            self._refuse_pods(meta)
        return not why and not self.cluster.terminating

    def _refuse_pods(self, job: Object) -> None:
        name = f"{job['name']}.{job['uid']}"
        if ("Event", job["namespace"], name) not in self.cluster.objects:
            said = {"reason": "FailedCreate", "message": "Error creating: pods are forbidden: exceeded quota: team"}
            about = {"uid": job["uid"], "name": job["name"]}
            meta = {"name": name, "namespace": job["namespace"]}
            self.cluster.put_new({"kind": "Event", "metadata": meta, "involvedObject": about, **said})

    def _serve(self, job: Object) -> None:
        uid = made_from(job)[0][keys.UID_LABEL]
        if removes(job):
            self.served.pop(uid, None)
        elif stage_of(job) == "register" and not is_lookup(job):
            self.served[uid] = made_by(job)
            self._have_served.add(uid)

    def steal_labels(self, item: Object) -> None:
        """Have somebody else take all labels and annotations of a Job."""
        item["metadata"] |= {"labels": {"app": "theirs"}, "annotations": {}}
        self.cluster.changed(item)

    def steal(self, job: Object) -> None:
        """Have somebody else take a Job whose program makes something from the operator."""
        if self._runs(job) and not is_lookup(job):
            job["metadata"]["ownerReferences"] = []
            self.cluster.changed(job)

    def delete_slowly(self, job: Object) -> None:
        """Delete a Job in the foreground: it is there until its Pods are gone."""
        self._removed.add(job["metadata"]["name"])
        job["metadata"]["deletionTimestamp"] = to_text(self.clock.now())
        self.cluster.changed(job)

    def remove(self, job: Object) -> None:
        """Have somebody else delete a Job, at once."""
        self._removed.add(job["metadata"]["name"])
        self.cluster.remove(job)

    def expire(self) -> None:
        """Remove all Jobs that have ended: their `ttlSecondsAfterFinished`, a minute at least, is over."""
        self.clock.forward(60)
        for job in self.cluster.jobs():
            if not is_active(job):
                self.remove(job)

    def collect_garbage(self) -> None:
        """Let what is deleted go, and what nobody owns any more."""
        for job in [job for job in self.cluster.jobs() if is_deleting(job)]:
            self.cluster.remove(job)
        uids = {item["metadata"]["uid"] for item in self.objects()}
        for item in self.objects():
            owners = item["metadata"].get("ownerReferences") or ()
            if owners and not any(owner["uid"] in uids for owner in owners):
                self.cluster.remove(item)

    # --- the end

    def calm_down(self) -> None:
        """Let everything go well from now on, but for what is held up, until nothing changes any more.

        Who has heard of everything, in whatever order, needs no full lists for it.
        """
        self.programs.failures.clear()
        self.programs.skew = timedelta()
        for replica in self.replicas:
            replica.api.faults.clear()
            replica.skew = timedelta()
        self.live()

    def live_until(self, stage: str) -> None:
        """Let all go well until a Job of a stage is there that has not ended."""

        def it_is_there() -> bool:
            there = any(stage_of(job) == stage for job in self.active())
            for job in () if there else self.active():
                self.finish(job)
            return there

        self.wait_until(it_is_there)

    def wait_until(self, it_is_so: Callable[[], bool]) -> None:
        """Let the operators go on, but no program, until something is so."""
        for _ in range(_ROUNDS):
            if it_is_so():
                return
            for replica in self.replicas:
                replica.hear_all()
            self.look_at_due()
            self.collect_garbage()
            self.clock.forward(_ROUND_SECONDS)
        raise AssertionError(f"it never is so: {[self.ready(name) for name in self.names()]}")

    def live(self) -> None:
        """Let operators and programs go on until nothing changes any more."""
        quiet = 0
        for number in range(_ROUNDS):
            while self.cluster.terminating and self.namespace_goes_on(0):
                pass
            before = self.cluster.version
            for replica in self.replicas:
                replica.hear_all()
                if replica.misses and number % _RESYNC_ROUNDS == 0:
                    self.resync(replica)
            self.look_at_due()
            self.collect_garbage()
            for job in self.active():
                self.finish(job)
            self.clock.forward(_ROUND_SECONDS)
            quiet = quiet + 1 if self.cluster.version == before and not any(map(is_deleting, self._jobs())) else 0
            if quiet and all(self.ready(name)[0] == "True" for name in self.names()):
                return
            if quiet * _ROUND_SECONDS > LATER.longest:
                return
        raise AssertionError(f"it never comes to rest: {[self.ready(name) for name in self.names()]}")

    def ready(self, name: str) -> tuple[str, str]:
        """Return status and reason of a FineTuneJob's condition Ready."""
        return self._condition(name, "Ready")

    def _condition(self, name: str, kind: str) -> tuple[str, str]:
        conditions = self.cluster.status(name, NAMESPACE).get("conditions") or ()
        return next(((item["status"], item["reason"]) for item in conditions if item["type"] == kind), ("Unknown", ""))

    def check_end(self) -> None:
        """Check that every FineTuneJob is where it should be after :meth:`calm_down`, and that nothing is left over."""
        for item in self._jobs():
            self._check_end_of(item)
        self._check_removals()
        left = [job["metadata"]["name"] for job in self.active() if is_owned(job) and not self._is_held_up(job)]
        assert not left, f"orphans: {left}"
        used = {job["metadata"]["name"] for job in self.active()}
        used |= self._unsettled() | self._to_be_found() | self._removed
        # What was created for a Job that never came about, its creator having died, goes with the FineTuneJob.
        there = {item["metadata"]["name"] for item in self.cluster.of_kind("ConfigMap")}
        unused = (there & self.cluster.begun) - used
        assert not unused, f"left over: {sorted(unused)}"
        assert self.cluster.of_kind("Service") == []

    def _check_removals(self) -> None:
        """Check that what was to go with its FineTuneJob is gone, or that an Event tells that it may not be."""
        told: dict[str, list[str]] = {}
        for event in self.cluster.of_kind("Event"):
            told.setdefault(event["involvedObject"]["uid"], []).append(event["reason"])
        for uid in self._to_go & self._have_served:
            assert len(told.get(uid, [])) == len({*told.get(uid, [])}), f"{uid}: told more than once: {told[uid]}"
            assert uid not in self.served or "ModelsLeftBehind" in told.get(uid, []), f"{uid}: its model is left"
            assert {"ModelsLeftBehind", "ModelsRemoved"} & {*told.get(uid, [])}, f"{uid}: nobody was told"

    def _unsettled(self) -> set[str]:
        """Return the Jobs of which it is to be looked up what they came to, and those that do, or have failed to.

        A stage may wait for that until nothing is suspended any more, or until an earlier one that failed is mended.
        """
        stages = [one for name in self.names() for one in self.cluster.status(name, NAMESPACE)["stages"]]
        unknown = {one["job"] for one in stages if one["state"] == "Unknown"}
        return unknown | {lookup_name(name) for name in unknown}

    def _to_be_found(self) -> set[str]:
        """Return the Jobs that have ended before their FineTuneJob has come so far that it knows they were to run."""
        over = {
            name
            for name in self.names()
            if self.ready(name)[0] == "True" or self._condition(name, "Stalled")[0] == "True"
        }
        return {job["metadata"]["name"] for job in self.cluster.jobs() if made_from(job)[0][keys.JOB_LABEL] not in over}

    def _check_end_of(self, item: Object) -> None:
        name, uid, status = item["metadata"]["name"], item["metadata"]["uid"], item["status"]
        is_ready, reason = self.ready(name)
        stalled = self._condition(name, "Stalled")[0] == "True"
        told = f"{name}: {is_ready} {reason}"
        assert status["observedGeneration"] == item["metadata"]["generation"], told
        for stage in status["stages"]:
            for unit in stage.get("units") or ():
                assert self.programs.volume[unit["key"]].digest == unit["digest"], f"{told}: {unit} is not there"
        if is_ready == "True":
            assert self.served[uid] == set(stages_of(status)["register"]["keys"]), told
        elif not stalled:
            assert reason in self._true_waits(item), f"{told}; held up: {self.held}"
        elif reason == "PodsInvalid":
            assert item["spec"].get("pods"), told
        else:
            assert reason == self.failed.get((uid, status["progress"]["stage"])), f"{told}; failed: {self.failed}"

    def _is_held_up(self, job: Object) -> bool:
        """Tell whether a Job is there that somebody wants: it could not run, and its FineTuneJob waits for it."""
        labels = made_from(job)[0]
        item = self.cluster.objects.get(("FineTuneJob", NAMESPACE, labels[keys.JOB_LABEL]))
        if stage_of(job) not in self.held or item is None or item["metadata"]["uid"] != labels[keys.UID_LABEL]:
            return False
        if removes(job):
            return is_deleting(item)
        name = item["metadata"]["name"]
        over = self.ready(name)[0] == "True" or self._condition(name, "Stalled")[0] == "True"
        wanted = {unit.key for unit in self.cluster.planned(item, stage_of(job), once_seen=True).units}
        return not over and (made_by(job) <= wanted or not wanted)

    def _true_waits(self, item: Object) -> set[str]:
        """Return the reasons with which a FineTuneJob may wait truly."""
        if item["spec"].get("suspend"):
            return {"Suspended"}
        held = [job for job in self.active() if stage_of(job) in self.held]
        own = [job for job in held if made_from(job)[0][keys.UID_LABEL] == item["metadata"]["uid"]]
        return {self.held[stage_of(job)] for job in own} if own else {"MadeElsewhere"} if held else set()
