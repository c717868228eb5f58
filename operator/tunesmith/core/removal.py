"""What is removed from Ollama with a FineTuneJob that has `deletionPolicy: Delete`, and how long that may take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tunesmith.api import keys as names
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.settings import Settings
from tunesmith.core import policy
from tunesmith.core.manifests import Child
from tunesmith.core.model import PlannedStage, StageState
from tunesmith.core.record import read_records
from tunesmith.core.times import to_time
from tunesmith_stages.contract import StageName
from tunesmith_stages.model_name import live_names

GIVE_UP_SECONDS = 600
"""So long after its deletion a FineTuneJob goes away, whatever is left in Ollama."""
LAST_WORDS_SECONDS = 20
"""The program that removes ends so long before, to say what is left."""
DELETE = "Delete"
_KEY = re.compile(r"[0-9a-f]{64}")

Object = Mapping[str, Any]
Names = Mapping[str, Sequence[str]]
"""Names of models, by server."""


def is_wanted(item: Object) -> bool:
    """Tell whether the models of a FineTuneJob are to be removed with it."""
    ollama = (item.get("spec") or {}).get("ollama") or {}
    return bool(ollama.get("deletionPolicy") == DELETE)


def holds(item: Object) -> bool:
    """Tell whether a FineTuneJob has the finalizer that keeps it until they are."""
    return names.FINALIZER in finalizers(item)


def finalizers(item: Object) -> list[str]:
    """Return all of its finalizers, also those of others."""
    return [str(name) for name in item["metadata"].get("finalizers") or ()]


def seconds_left(item: Object, now: datetime) -> float:
    """Return how much of the time is left after which the removal is given up."""
    since = to_time(str(item["metadata"].get("deletionTimestamp", ""))) or now
    return GIVE_UP_SECONDS - (now - since).total_seconds()


def registered_keys(status: Object, jobs: Iterable[Object]) -> frozenset[str]:
    """Return the keys of every registration that a FineTuneJob has made or begun, by its status and its child Jobs."""
    record = read_records(status)[StageName.REGISTER]
    found = [*(unit.key for unit in record.units), *record.keys]
    for job in jobs:
        if may_be_of(job, StageName.REGISTER):
            found += ((job["metadata"].get("annotations") or {}).get(names.KEYS_ANNOTATION) or "").split(",")
    return frozenset(key for key in found if _KEY.fullmatch(key))


def may_be_of(child: Object, *stages: StageName) -> bool:
    """Tell whether a child Job or Pod is of one of these stages, or may be: somebody has taken the label away."""
    return (child["metadata"].get("labels") or {}).get(names.STAGE_LABEL) in {None, *stages}


def served(status: Object) -> dict[str, list[str]]:
    """Return the models that a FineTuneJob serves, as its status says."""
    return {
        str(item.get("server", "")): [str(name) for name in item.get("models") or ()]
        for item in status.get("ollama") or ()
    }


def wanted_names(job: FineTuneJob, status: Object) -> dict[str, list[str]]:
    """Return the names that a FineTuneJob serves or was about to serve."""
    spec = job.spec
    own = [*live_names(spec.ollama.model, [str(item) for item in spec.export.quantizations]).values()]
    said = served(status)
    servers = dict.fromkeys([*spec.ollama.servers, *said])
    return {
        name: list(dict.fromkeys([*(own if name in spec.ollama.servers else []), *said.get(name, [])]))
        for name in servers
    }


@dataclass(frozen=True)
class Reach:
    """What of it can be removed under the administrator's settings, and what cannot, with why."""

    names: Names
    out_of_reach: tuple[str, ...] = ()


def within_reach(wanted: Names, status: Object, namespace: str, settings: Settings) -> Reach:
    """Divide names by whether the administrator still lets this namespace change them.

    Somebody may have edited a FineTuneJob to name the model of others; nothing of it was ever registered then.
    """
    servers = {server.name: server for server in settings.servers if policy.allows(server, namespace)}
    there, not_there = {}, []
    said = served(status)
    for name, models in wanted.items():
        prefix = policy.prefix_of(servers[name], namespace) if name in servers else None
        mine = [model for model in models if prefix is not None and model.startswith(prefix)]
        if mine:
            there[name] = mine
        why = "is not for this namespace any more" if prefix is None else f"takes names with {prefix!r} only"
        not_there += [f"{model} on server {name!r}, which {why}" for model in said.get(name, ()) if model not in mine]
    return Reach(there, tuple(not_there))


def removal_child(
    job: FineTuneJob,
    item: Object,
    removed: Names,
    keys: Iterable[str],
    *,
    attempt: int,
    image: str,
    seconds: float,
) -> Child:
    """Return the child whose program removes models: it runs as `register` does, in the same kind of pod.

    Args:
        job: the FineTuneJob.
        item: the same as the API server has it.
        removed: which models.
        keys: of the registrations that may have made them.
        attempt: 1 for the first.
        image: the stages' image.
        seconds: how long a server that does not answer is asked again.
    """
    runtime = {
        "names": {server: list(models) for server, models in removed.items()},
        "served": served(item.get("status") or {}),
        "keys": sorted(keys),
        "seconds": max(1, int(seconds)),
    }
    meta = item["metadata"]
    stage = PlannedStage(StageName.REGISTER, StageState.READY, runtime=runtime)
    return Child(job, meta["uid"], meta["namespace"], stage, attempt, later=(), known={}, image=image, removes=True)


def in_words(models: Names) -> str:
    """Return names of models for a sentence."""
    return ", ".join(f"{', '.join(some)} on server {server!r}" for server, some in models.items())
