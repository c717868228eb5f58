"""A cluster that takes nothing that must never be: it checks what is written, when it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from support.fake_cluster import FakeCluster, copy_of, made_from, removes
from tunesmith.api import keys
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.settings import Settings
from tunesmith.core.decide import Subject, decide
from tunesmith.core.decide import World as Seen
from tunesmith.core.model import PlannedStage
from tunesmith.core.observe import observe_job
from tunesmith.kube.cluster import FINETUNEJOBS, Object
from tunesmith.kube.items import Owner, slim_child
from tunesmith_stages.contract import StageName

_SETTINGS: Mapping[str, Any] = {
    "stageImage": "registry.example/tunesmith-stages:1",
    "servers": [{"name": "main", "url": "http://ollama:11434"}],
}


@dataclass
class Told:
    """What statuses have told of."""

    jobs: dict[str, int] = field(default_factory=dict)
    """Jobs that a status has named, so that the operator knows of them, and the generation that it was of."""
    made: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    """By uid of a FineTuneJob and stage, the keys of what it was said to have made and still wants."""

    def copy(self) -> Told:
        return Told(dict(self.jobs), dict(self.made))

    def take(self, uid: str, status: Mapping[str, Any]) -> None:
        """Take in a status that was written."""
        for name, stage in stages_of(status).items():
            if "job" in stage:
                self.jobs[stage["job"]] = int(status["observedGeneration"])
            done = self.made.get((uid, name), frozenset())
            if stage["state"] == "Succeeded":
                done |= {unit["key"] for unit in stage.get("units") or ()}
            wanted = stage.get("keys")
            self.made[uid, name] = done & frozenset(wanted) if wanted else done


class Operator(Protocol):
    """Who creates Jobs."""

    listed: int
    """Version of the cluster when it last had a full list."""
    read: dict[str, tuple[Object, Told]]
    """By name, the FineTuneJobs as it has last read them, and what statuses had told of by then."""


@dataclass
class CheckedCluster(FakeCluster):
    """Checks Jobs when they are created, and statuses when they are replaced."""

    settings: Settings = field(default_factory=lambda: Settings.model_validate(_SETTINGS))
    told: Told = field(default_factory=Told)
    done: dict[tuple[str, str, frozenset[str]], tuple[int, str]] = field(default_factory=dict)
    """By uid of a FineTuneJob, stage and keys: the generation in which a Job has made them, and its name."""
    creators: dict[str, Operator] = field(default_factory=dict)
    """By uid of a Job, who has created it."""
    lost_pods: dict[str, list[Object]] = field(default_factory=dict)
    """By uid of their Job, Pods that are gone."""
    lost_jobs: list[Object] = field(default_factory=list)
    """Jobs that had ended, and are gone."""
    begun: set[str] = field(default_factory=set)
    """Names of all Jobs that were ever created."""

    async def create_for(self, operator: Operator, item: Object) -> Object:
        """Create an object; a Job only if its work is wanted, if nobody else does it, and if it is not done."""
        if item["kind"] == "Job" and _key(item) not in self.objects and _key(item)[1] not in self.terminating:
            self._check_new_job(operator, item)
        made = await self.create(item)
        if item["kind"] == "Job":
            self.creators[made["metadata"]["uid"]] = operator
            self.begun.add(made["metadata"]["name"])
        return made

    async def replace_status(self, item: Object) -> Object:
        """Write a status that does not go back behind the one that is there."""
        there = self.objects.get(_key(item))
        current = there is not None and there["metadata"]["resourceVersion"] == item["metadata"]["resourceVersion"]
        before = dict(there.get("status") or {}) if there is not None and current else {}
        written = await super().replace_status(item)
        self.told.take(item["metadata"]["uid"], item["status"])
        check_progress(
            before, item["status"], edited=before.get("observedGeneration") != written["metadata"]["generation"]
        )
        return written

    def _check_new_job(self, operator: Operator, job: Object) -> None:
        if is_lookup(job) or removes(job):
            return
        name, stage, wanted = job["metadata"]["name"], stage_of(job), made_by(job)
        rivals = [
            other["metadata"]["name"]
            for other in self.jobs(stage)
            if is_active(other)
            and is_owned(other)
            and not is_lookup(other)
            and made_by(other) & wanted
            and (_owner(other) == _owner(job) or self._is_known_to(operator, other))
        ]
        assert not rivals, f"{name} is created while {rivals} make the same"
        known = self._owner_of(job)
        if known is None:
            return  # it was deleted meanwhile; the garbage collector takes what is created for it
        # What another operator writes after this one has read the FineTuneJob comes too late for it.
        read, told_then = operator.read.pop(known["metadata"]["name"], (known, self.told))
        is_same = read["metadata"]["uid"] == known["metadata"]["uid"]
        known, told = (read, told_then) if is_same else (known, self.told)
        generation = known["metadata"]["generation"]
        asked_anew = self._asks_anew(known)
        assert told.jobs.get(name) != generation or asked_anew, f"{name} is created once more"
        if stage != "rehearse":  # it is a gate, which is gone through again when an earlier result has changed
            again = wanted & told.made.get((known["metadata"]["uid"], stage), frozenset())
            assert not again or asked_anew, f"{name} makes what was told to be made"
        views = [self.planned(known, stage, once_seen=once_seen) for once_seen in (False, True)]
        # Without units where its inputs cannot be known from what there is any more.
        wants = [wanted <= {unit.key for unit in planned.missing} or not planned.units for planned in views]
        assert any(wants), f"{name} makes what is not wanted, or what is done"
        when, by = self.done.get((known["metadata"]["uid"], stage, frozenset(wanted)), (0, ""))
        known_to_be_made = when == generation and by in told.jobs
        assert not known_to_be_made, f"{name} makes again what {by} has made"

    def _is_known_to(self, operator: Operator, job: Object) -> bool:
        """Tell whether an operator must know of a Job of another FineTuneJob than the one that it looks at.

        It does if it has created it or listed it. Of two operators that work at once neither can know what the other
        one does just then for another FineTuneJob: their programs find each other on the volume. And whose label was
        taken from it is heard of only when its own FineTuneJob is looked at.
        """
        uid = job["metadata"]["uid"]
        seen = self.creators.get(uid) is operator or int(uid.removeprefix("uid-")) <= operator.listed
        return seen and keys.UID_LABEL in job["metadata"]["labels"]

    def _owner_of(self, job: Object) -> Object | None:
        labels = made_from(job)[0]
        known = self.objects.get(("FineTuneJob", job["metadata"]["namespace"], labels[keys.JOB_LABEL]))
        return known if known is not None and known["metadata"]["uid"] == labels[keys.UID_LABEL] else None

    def _asks_anew(self, known: Object) -> bool:
        """Tell whether a user has asked for another try that no status has answered yet."""
        asked = (known["metadata"].get("annotations") or {}).get(keys.RETRY_ANNOTATION, "")
        return bool((known.get("status") or {}).get("retry", "") != asked)

    def planned(self, known: Object, stage: str, *, once_seen: bool) -> PlannedStage:
        """Return what is to be done in a stage of a FineTuneJob, for who sees everything as it is now.

        `once_seen`: and who has heard what ended Jobs reported that are gone, or whose Pods are.
        """
        meta = known["metadata"]
        whole = {"apiVersion": FINETUNEJOBS.api_version, "kind": FINETUNEJOBS.kind, "spec": known["spec"]}
        subject = Subject(
            job=FineTuneJob.model_validate({**whole, "metadata": {part: meta[part] for part in ("name", "namespace")}}),
            uid=meta["uid"],
            namespace=meta["namespace"],
            generation=meta["generation"],
            status=known.get("status") or {},
            retry=(meta.get("annotations") or {}).get(keys.RETRY_ANNOTATION, ""),
        )
        seen = [
            observe_job(
                slim_child(job, Owner(meta["namespace"], meta["uid"]), pod=False),
                [*(self.lost_pods.get(job["metadata"]["uid"], []) if once_seen else []), *self.pods_of(job)],
            )
            for job in [*(self.lost_jobs if once_seen else []), *self.jobs()]
            if is_owned(job) and made_from(job)[0][keys.UID_LABEL] == meta["uid"]
        ]
        draft = decide(subject, Seen(jobs=tuple(job for job in seen if job)), self.settings, self.clock.now())
        return draft.plan.stage(StageName(stage))

    def remove(self, item: Object) -> None:
        """Delete an object; of a Pod, and of a Job that has ended, its last state is remembered."""
        if item["kind"] == "Pod":
            self.lost_pods.setdefault(item["metadata"]["ownerReferences"][0]["uid"], []).append(copy_of(item))
        elif item["kind"] == "Job" and (item.get("status") or {}).get("conditions"):
            self.lost_jobs.append(copy_of(item))
        super().remove(item)

    def job_ends(self, job: Object) -> None:
        """Remember that a Job's program has made what it was to make."""
        known, stage = self._owner_of(job), stage_of(job)
        if known is not None and is_owned(job) and stage != "rehearse" and not (is_lookup(job) or removes(job)):
            made = known["metadata"]["uid"], stage, frozenset(made_by(job))
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
    assert edited or asked_anew or not _is_ready(before) or _is_ready(after), "it was ready, and is not any more"
    stages = stages_of(after)
    for name, was in stages_of(before).items():
        now = stages[name]
        if was.get("keys") == now.get("keys"):
            assert now.get("attempts", 0) >= was.get("attempts", 0), f"{name} forgets attempts"
        if edited or asked_anew or was["state"] != "Succeeded" or not was.get("units"):
            continue
        assert now["state"] == "Succeeded", f"{name} was done and is {now['state']}: {now.get('reason')}"
        assert now.get("units") == was["units"], f"the results of {name} change"


def _is_ready(status: Mapping[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())


def stages_of(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what a status says of each stage."""
    return {item["name"]: item for item in status.get("stages") or ()}


def _key(item: Object) -> tuple[str, str, str]:
    return item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]


def _owner(job: Object) -> str:
    return made_from(job)[0][keys.UID_LABEL]


def stage_of(job: Object) -> str:
    """Return the stage that a Job is of."""
    return made_from(job)[0][keys.STAGE_LABEL]


def made_by(job: Object) -> set[str]:
    """Return the content keys of what a Job is to make."""
    return set(filter(None, made_from(job)[1].get(keys.KEYS_ANNOTATION, "").split(",")))


def is_lookup(job: Object) -> bool:
    """Tell whether a Job only looks up what is there."""
    return made_from(job)[1].get(keys.LOOKUP_ANNOTATION) == "true"


def is_owned(job: Object) -> bool:
    """Tell whether a Job is still the operator's: no other controller has taken it."""
    return bool(job["metadata"].get("ownerReferences"))


def is_deleting(item: Object) -> bool:
    """Tell whether an object is on its way out."""
    return bool(item["metadata"].get("deletionTimestamp"))


def is_active(job: Object) -> bool:
    """Tell whether a Job has neither ended nor been deleted."""
    return not (job.get("status") or {}).get("conditions") and not is_deleting(job)
