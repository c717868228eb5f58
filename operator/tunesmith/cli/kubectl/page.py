"""What `kubectl tunesmith status` and `watch` tell of a FineTuneJob, as values: read from the object, ready to show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tunesmith.api import keys
from tunesmith.api.status import State
from tunesmith.core.asked import asked
from tunesmith.core.times import seconds_between, to_text

Object = Mapping[str, Any]


@dataclass(frozen=True)
class StageRow:
    """Where one stage stands."""

    name: str
    state: str
    attempt: int = 0
    """The newest one; 0 if none was needed."""
    seconds: int | None = None
    """How long the newest attempt took, or has been running for."""
    cached: bool = False
    reason: str = ""
    next_attempt: str = ""
    """When it is tried again (RFC 3339)."""
    log_tail: str = ""
    """The last lines that its program wrote before it failed."""


@dataclass(frozen=True)
class ArtifactRow:
    """Something that was made to be used."""

    type: str
    bytes: int
    model: str
    path: str


@dataclass(frozen=True)
class ServerRow:
    """An Ollama server and the models that it has of the job."""

    name: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class SourceRow:
    """Where the base model or a dataset comes from."""

    name: str
    place: str
    version: str = ""
    bytes: int | None = None


@dataclass(frozen=True)
class Page:
    """All that is told of a FineTuneJob."""

    name: str
    namespace: str
    ready: bool
    """It is done, as it is written now."""
    stalled: bool
    """It does not go on unless somebody acts."""
    reason: str
    """Where it stands, in one word."""
    message: str
    hint: str
    stages: tuple[StageRow, ...] = ()
    progress: Mapping[str, Any] = field(default_factory=dict)
    artifacts: tuple[ArtifactRow, ...] = ()
    servers: tuple[ServerRow, ...] = ()
    sources: tuple[SourceRow, ...] = ()


def page_of(item: Object, now: datetime) -> Page:
    """Return what is to be told of a FineTuneJob as the API server gives it."""
    meta, status = item["metadata"], item.get("status") or {}
    ready, stalled, reason, message = _standing(item)
    return Page(
        name=meta["name"],
        namespace=meta["namespace"],
        ready=ready,
        stalled=stalled,
        reason=reason,
        message=message,
        hint=_hint(item, reason, message),
        stages=tuple(_stage(stage, now) for stage in status.get("stages") or ()),
        progress=status.get("progress") or {},
        artifacts=tuple(
            ArtifactRow(made["name"], made.get("bytes", 0), made.get("model", ""), made["path"])
            for made in status.get("artifacts") or ()
        ),
        servers=tuple(
            ServerRow(server["server"], tuple(server.get("models") or ())) for server in status.get("ollama") or ()
        ),
        sources=tuple(_sources(item)),
    )


UNSEEN = "Unseen"
"""The operator has not looked at the job as it is now."""


def _standing(item: Object) -> tuple[bool, bool, str, str]:
    """Return whether a job is ready, whether it is stalled, the reason and the sentence.

    What the status says of an earlier version of the spec, or before somebody asked for more, counts no longer.
    """
    meta, status = item["metadata"], item.get("status") or {}
    if meta.get("deletionTimestamp"):
        return False, False, "Deleting", "it is being deleted"
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    if "Ready" not in conditions:
        return False, False, UNSEEN, "the operator has not looked at it yet"
    if status.get("observedGeneration") != meta.get("generation"):
        return False, False, UNSEEN, "the operator has not looked at the newest edit yet"
    ready, stalled = (conditions.get(name, {}).get("status") == "True" for name in ("Ready", "Stalled"))
    reason, message = conditions["Ready"]["reason"], conditions["Ready"]["message"]
    if (ready and _is_asked(item, keys.REFRESH_ANNOTATION, "refresh")) or (
        stalled and reason != "InvalidSpec" and _is_asked(item, keys.RETRY_ANNOTATION, "retry")
    ):
        return False, False, UNSEEN, "the operator has not looked at the newest annotation yet"
    return ready, stalled, reason, message


def _is_asked(item: Object, annotation: str, done_for: str) -> bool:
    """Tell whether an annotation asks for something that the status does not know of."""
    status = item.get("status") or {}
    return bool(asked(annotation, item["metadata"], status) != status.get(done_for, ""))


def _hint(item: Object, reason: str, message: str) -> str:
    if reason == UNSEEN:
        return f"If this lasts: does the operator run, and does it watch the namespace {item['metadata']['namespace']}?"
    stages = (item.get("status") or {}).get("stages") or ()
    hint = next((stage["hint"] for stage in stages if stage.get("reason") == reason and stage.get("hint")), "")
    return "" if hint in message else str(hint)


def _stage(stage: Object, now: datetime) -> StageRow:
    start, end = stage.get("startTime", ""), stage.get("completionTime", "")
    runs = stage["state"] == State.RUNNING
    seconds = seconds_between(start, to_text(now) if runs else end) if start and (runs or end) else None
    return StageRow(
        name=stage["name"],
        state=stage["state"],
        attempt=stage.get("attempts", 0),
        seconds=seconds,
        cached=stage.get("cached", False),
        reason=stage.get("reason", ""),
        next_attempt=stage.get("nextAttemptTime", ""),
        log_tail=stage.get("logTail", ""),
    )


def _sources(item: Object) -> Iterable[SourceRow]:
    """Yield the sources of the spec, each with the version that was found and its size."""
    spec, status = item["spec"], item.get("status") or {}
    versions = {source["name"]: source.get("version", "") for source in status.get("sources") or ()}
    fetched: Object = next((stage for stage in status.get("stages") or () if stage["name"] == "fetch"), {})
    sizes = {unit["name"]: unit.get("bytes", 0) for unit in fetched.get("units") or ()}
    datasets = spec.get("datasets") or ()  # a GGUF is not trained
    named = [("base", spec["model"]), *((f"dataset:{dataset['name']}", dataset) for dataset in datasets)]
    for name, source in named:
        yield SourceRow(name, _place(source), versions.get(name, ""), sizes.get(name))


def _place(source: Object) -> str:
    """Return where a source comes from, such as ``volume data/faq.json``; nothing for a kind that is not known here."""
    if builtin := source.get("builtin"):
        return f"builtin {builtin}"
    if rows := source.get("inline"):
        return f"inline {len(rows)} rows"
    for kind, fields in _PLACES.items():
        if given := source.get(kind):
            return f"{kind} {'/'.join(str(given.get(field, '')) for field in fields)}"
    return ""


_PLACES = {
    "volume": ("path",),
    "gguf": ("path",),
    "huggingFace": ("repo",),
    "modelScope": ("repo",),
    "job": ("name",),
    "configMap": ("name", "key"),
}
"""By kind of source, the fields that say where it is."""
