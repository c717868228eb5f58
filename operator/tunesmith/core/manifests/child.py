"""One try at one stage of one FineTuneJob, and what its Kubernetes objects have in common: name, labels, owner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.api import keys
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.core.model import PlannedStage
from tunesmith_stages.contract import UNITS_PER_PROGRAM, Input, LaterUnit, StageName, UnitConfig, digest_of

_JOB_CHARACTERS = 30
_DIGEST_CHARACTERS = 8
STAGE_CONTAINER = "stage"


@dataclass(frozen=True)
class Child:
    """What the Kubernetes objects of one try at a stage are made from."""

    job: FineTuneJob
    uid: str
    """The FineTuneJob's."""
    namespace: str
    stage: PlannedStage
    """Its `missing` units are made, as many of them as one program takes."""
    attempt: int
    """1 for the first."""
    later: tuple[LaterUnit, ...]
    known: Mapping[str, Input]
    image: str
    deadline: int | None = None
    """Seconds that are left of ``spec.activeDeadlineSeconds``; `train` only."""
    grace: int | None = None
    """Seconds between SIGTERM and SIGKILL, from the measured time of saving a checkpoint; `train` only."""
    lookup: bool = False
    """Nothing is made: what is on the volume already is looked up and reported."""
    removes: bool = False
    """Nothing is made: what `register` has made is removed from the servers; `register` only."""

    @property
    def units(self) -> tuple[UnitConfig, ...]:
        """What this try is to make or look up."""
        return self.stage.missing[:UNITS_PER_PROGRAM]

    @property
    def trains(self) -> bool:
        """Whether it runs a training: what is special of `train` is not so of looking up its result."""
        return self.stage.name is StageName.TRAIN and not self.lookup

    @property
    def nodes(self) -> int:
        """Number of pods that work together."""
        return self.job.spec.training.nodes if self.trains else 1


def child_name(child: Child) -> str:
    """Return the name of a child's Job, ConfigMap and Service: at most 59 characters, for fewer than 1,000 attempts.

    It follows from what is made for whom, so that two operators that do the same at once meet in one object. The pods
    of an Indexed Job need a few characters more for their host names. A Service's name begins with a letter.
    """
    job = child.job.metadata.name[:_JOB_CHARACTERS].rstrip("-")
    if not job[0].isalpha():
        job = f"j{job[: _JOB_CHARACTERS - 1]}".rstrip("-")
    made = digest_of([child.uid, str(child.stage.name), [unit.key for unit in child.units]])[:_DIGEST_CHARACTERS]
    name = f"{job}-{child.stage.name}-{made}-{child.attempt}"
    if child.removes:
        return f"{name}-remove"
    return lookup_name(name) if child.lookup else name


def lookup_name(name: str) -> str:
    """Return the name of the child that looks up what became of the child `name`."""
    return f"{name}-lookup"


def common_labels(component: str) -> dict[str, str]:
    """Return Kubernetes' recommended labels for something of ours."""
    return {
        "app.kubernetes.io/name": "tunesmith",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "tunesmith",
    }


def child_labels(child: Child) -> dict[str, str]:
    """Return the labels of everything that belongs to a child, its pods included."""
    return {
        **common_labels(str(child.stage.name)),
        keys.JOB_LABEL: child.job.metadata.name,
        keys.UID_LABEL: child.uid,
        keys.STAGE_LABEL: str(child.stage.name),
        keys.ATTEMPT_LABEL: str(child.attempt),
    }


def child_annotations(child: Child) -> dict[str, str]:
    """Return the annotations of everything that belongs to a child."""
    made = {keys.KEYS_ANNOTATION: ",".join(unit.key for unit in child.units)}
    if child.removes:
        return {keys.REMOVAL_ANNOTATION: "true"}
    return {**made, keys.LOOKUP_ANNOTATION: "true"} if child.lookup else made


def owned_by(job: FineTuneJob, uid: str) -> list[dict[str, Any]]:
    """Return the owner reference that makes Kubernetes delete an object with its FineTuneJob."""
    return [
        {
            "apiVersion": f"{keys.GROUP}/{keys.VERSION}",
            "kind": keys.KIND,
            "name": job.metadata.name,
            "uid": uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def child_metadata(child: Child, extra_labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the metadata of a child's Job, ConfigMap or Service."""
    return {
        "name": child_name(child),
        "namespace": child.namespace,
        "labels": {**child_labels(child), **(extra_labels or {})},
        "annotations": child_annotations(child),
        "ownerReferences": owned_by(child.job, child.uid),
    }
