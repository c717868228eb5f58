"""A base that another FineTuneJob trains: what that one has trained, or why it must be waited for.

Both may be applied at once and in any order, as GitOps does. What is told here is read from the FineTuneJobs as the API
server has them, by the one that goes on from the other; the volume is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.api.keys import REFRESH_ANNOTATION
from tunesmith.core.asked import asked
from tunesmith.core.record import read_records
from tunesmith_stages.contract import StageName

Item = Mapping[str, Any]
"""A FineTuneJob with ``metadata``, ``spec`` and ``status``."""

_MAX_MESSAGE = 500
"""Characters of what the other job says; it may quote a third one."""


@dataclass(frozen=True)
class BaseJob:
    """Where the job stands whose result is the base."""

    trained: str = ""
    """Content key of what it has trained, as it is written now; empty if it has not."""
    waits_for: tuple[str, str] | None = None
    """Reason and sentence if it has not trained yet."""
    stalled: tuple[str, str] | None = None
    """Reason and sentence if it never will, unless one of the jobs is edited."""


def base_of(item: Item) -> str:
    """Return the name of the FineTuneJob that trains the base of this one; empty if it has another source."""
    model = (item.get("spec") or {}).get("model") or {}
    return str((model.get("job") or {}).get("name", ""))


def base_job(item: Item, find: Callable[[str], Item | None], volume: tuple[str, str]) -> BaseJob | None:
    """Return where the job stands that trains the base of this one; None if the base has another source.

    Args:
        item: the FineTuneJob that goes on from the other one.
        find: returns a FineTuneJob of the same namespace by its name, None if there is none.
        volume: claim and folder that this one uses.
    """
    name = base_of(item)
    if not name:
        return None
    other = find(name)
    if other is not None and _volume_of(other) not in {None, volume}:
        return BaseJob(stalled=_elsewhere(name, _volume_of(other) or volume, volume))
    if other is not None and (key := trained_key(other)):
        return BaseJob(trained=key)
    never = _never(item, name, other, find)
    return BaseJob(stalled=never) if never else BaseJob(waits_for=_awaited(name, other))


def trained_key(item: Item) -> str:
    """Return the content key of what a FineTuneJob has trained; empty if it has not, as it is written now."""
    if not _is_done(item, "Trained"):
        return ""
    units = read_records(item["status"])[StageName.TRAIN].units
    return units[0].key if units else ""  # there is none of a base that is not trained


def told_to_others(item: Item | None) -> object:
    """Return what those who go on from a FineTuneJob see of it: a value that is equal as long as nothing is new."""
    if item is None:
        return None
    never = (base_of(item), _is_gguf(item), _is_done(item, "Fetched"), _volume_of(item))
    return never, trained_key(item) or _awaited(item["metadata"]["name"], item)


def _is_done(item: Item, condition: str) -> bool:
    """Tell whether a stage is done of what is wanted now, not of an earlier version of it."""
    meta, status = item["metadata"], item.get("status") or {}
    wanted = (meta.get("generation", 1), asked(REFRESH_ANNOTATION, meta, status))
    seen = (status.get("observedGeneration"), status.get("refresh", "")) == wanted
    return seen and _condition(item, condition).get("status") == "True"


def _condition(item: Item, kind: str) -> Mapping[str, Any]:
    conditions = (item.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def _is_gguf(item: Item) -> bool:
    return bool(((item.get("spec") or {}).get("model") or {}).get("gguf"))


def volume_key(storage: Mapping[str, Any]) -> tuple[str, str]:
    """Return claim and folder of a storage, by which two volumes are told apart."""
    return str(storage.get("claimName") or ""), str(storage.get("subPath") or "").strip("/")


def _volume_of(item: Item) -> tuple[str, str] | None:
    """Return claim and folder that a job uses; None if it has not been looked at yet."""
    storage = (item.get("status") or {}).get("storage")
    return volume_key(storage) if storage else None


# --- what will never be ----------------------------------------------------------------------------------------------


def _never(item: Item, name: str, other: Item | None, find: Callable[[str], Item | None]) -> tuple[str, str] | None:
    if other is not None and _is_gguf(other):
        return "JobTrainsNothing", (
            f"the base is what FineTuneJob {name} trains, and that one trains nothing: its own base is a GGUF file. "
            "Name another job in `spec.model.job.name`, or that file in `spec.model.gguf`."
        )
    circle = _circle(item["metadata"]["name"], find)
    if circle:
        return "JobCycle", (
            f"each of these jobs waits for what the next one trains: {', '.join([*circle, circle[0]])}. "
            "Give one of them another `spec.model`."
        )
    return None


def _elsewhere(name: str, theirs: tuple[str, str], ours: tuple[str, str]) -> tuple[str, str]:
    return "JobOnAnotherVolume", (
        f"the base is what FineTuneJob {name} trains, on {_in_words(theirs)}; this job uses {_in_words(ours)}. "
        "Set the same `spec.storage` in both."
    )


def _in_words(volume: tuple[str, str]) -> str:
    claim, folder = volume
    return f"the claim {claim}" + (f", folder {folder}" if folder else "")


def _circle(name: str, find: Callable[[str], Item | None]) -> list[str]:
    """Return the FineTuneJobs, from `name` on, of which each waits for the next and the last for the first."""
    path = [name]
    while (item := find(path[-1])) is not None:
        if item["metadata"]["name"] != name and _is_done(item, "Fetched"):
            return []  # it has its base
        following = base_of(item)
        if following == name:
            return path
        if not following or following in path:
            return []  # what waits in a circle further on is told of there
        path.append(following)
    return []


# --- what is waited for ----------------------------------------------------------------------------------------------


def _awaited(name: str, item: Item | None) -> tuple[str, str]:
    return "WaitingForJob", f"the base is what FineTuneJob {name} trains, {_where(item)}"


def _where(item: Item | None) -> str:
    if item is None:
        return "which does not exist in this namespace yet"
    ready = _condition(item, "Ready")
    if not ready or (item.get("status") or {}).get("observedGeneration") != item["metadata"].get("generation", 1):
        return "which has not been looked at yet as it is written now"
    said = f"{ready.get('reason', '')}: {ready.get('message', '')}"[:_MAX_MESSAGE]
    if _condition(item, "Stalled").get("status") == "True":
        return f"which somebody must mend first; then this job goes on by itself. {said}"
    if ready.get("status") == "True":
        return f"which ends before its training. {said}"
    stage = ((item.get("status") or {}).get("progress") or {}).get("stage", "")
    return f"which has not trained yet and is at `{stage}`. {said}"
