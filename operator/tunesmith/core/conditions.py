"""The status of a FineTuneJob as people and tools read it, made from a decision.

`Ready`, `Reconciling` and `Stalled` follow kstatus (https://github.com/kubernetes-sigs/cli-utils, pkg/kstatus): a job
that waits for something is Reconciling, and Stalled only if somebody must act.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from tunesmith.api.status import REASON_PATTERN, State
from tunesmith.core.decide import Draft, known_inputs
from tunesmith.core.log_tail import MOST_BYTES
from tunesmith.core.manifests import effective_storage
from tunesmith.core.model import PlannedStage, StageState
from tunesmith.core.progress import percentage
from tunesmith.core.queueing import INADMISSIBLE, QUEUED
from tunesmith.core.record import ACTIVE, StageRecord, write_record
from tunesmith.core.times import to_text
from tunesmith_stages import model_name
from tunesmith_stages.contract import StageName

_DOING: Mapping[StageName, str] = {
    StageName.FETCH: "Fetching",
    StageName.PREPARE: "Preparing",
    StageName.REHEARSE: "Rehearsing",
    StageName.TRAIN: "Training",
    StageName.CONVERT: "Converting",
    StageName.QUANTIZE: "Quantizing",
    StageName.REGISTER: "Registering",
}
_DONE: Mapping[StageName, str] = {
    StageName.FETCH: "Fetched",
    StageName.PREPARE: "Prepared",
    StageName.REHEARSE: "Rehearsed",
    StageName.TRAIN: "Trained",
    StageName.CONVERT: "Converted",
    StageName.QUANTIZE: "Quantized",
    StageName.REGISTER: "Registered",
}
"""The condition that says that a stage is done."""

_KEEPS_ITS_STEPS = frozenset({QUEUED, INADMISSIBLE, "Suspended", "ParallelismLowered", "Unschedulable"})
"""Reasons to wait in which a training is that was stopped with a checkpoint: it is said how far it was."""
_MAX_MESSAGE = 2048


@dataclass(frozen=True)
class Standing:
    """Where a job stands, in one word and one sentence."""

    reason: str
    message: str
    ready: bool = False
    stalled: bool = False
    stage: StageName | None = None


@dataclass(frozen=True)
class Note:
    """An Event to be told about a FineTuneJob."""

    type: str
    """``Normal`` or ``Warning``."""
    reason: str
    message: str


def standing(draft: Draft) -> Standing:
    """Return where the job stands."""
    stage = draft.plan.next.name if draft.plan.next else StageName.REGISTER
    if draft.stalled is not None:
        return Standing(*draft.stalled, stalled=True, stage=stage)
    if draft.waits_for is not None:
        return Standing(*draft.waits_for, stage=stage)
    if draft.finished:
        return _finished(draft)
    # What is to be looked up of a later stage waits for its turn, if it is wanted still.
    busy = [one for one in draft.records.values() if one.state in ACTIVE - {State.UNKNOWN} or _is_unknown(one, stage)]
    record = busy[-1] if busy else draft.records[stage]
    return _standing_of(record)


def _is_unknown(record: StageRecord, stage: StageName) -> bool:
    return record.name is stage and record.state is State.UNKNOWN


def _finished(draft: Draft) -> Standing:
    ollama = draft.subject.job.spec.ollama
    if draft.plan.next is not None:
        proven = "all that can be proven before the training is proven"
        if draft.subject.job.spec.model.gguf is not None:
            proven = "the GGUF file is there and can be read"
        sentence = f"{proven}; `spec.dryRun` ends it here"
        return Standing("DryRunSucceeded", sentence, ready=True, stage=StageName.REHEARSE)
    servers = ", ".join(ollama.servers)
    return Standing(
        "Succeeded", f"the model answers as {ollama.model} in Ollama ({servers})", ready=True, stage=StageName.REGISTER
    )


def _standing_of(record: StageRecord) -> Standing:
    doing = _DOING[record.name]
    if record.state is State.RUNNING:
        return Standing(doing, f"{record.name} runs in Job {record.job}", stage=record.name)
    if record.state in ACTIVE:
        if record.reason:
            return Standing(record.reason, record.message, stage=record.name)
        return Standing("Pending", f"Job {record.job} is being started", stage=record.name)
    if record.next_attempt:
        again = f"{record.message} {record.hint} It is tried again at {record.next_attempt}.".strip()
        return Standing(record.reason, again, stage=record.name)
    return Standing(record.reason or "Pending", record.message or f"{record.name} comes next", stage=record.name)


def next_status(draft: Draft, progress: Mapping[str, Any], warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the whole status after a decision; `progress` is what the running program's log tells."""
    stands = standing(draft)
    so_far = _progress(draft, stands, progress)
    if stands.reason in _KEEPS_ITS_STEPS and so_far.get("done"):
        done = f"At least {so_far['done']} of {so_far['total']} {so_far['of']} were done"
        stands = replace(stands, message=f"{stands.message}. {done}; it goes on from its newest checkpoint")
    status: dict[str, Any] = {
        "observedGeneration": draft.subject.generation,
        "conditions": _conditions(draft, stands, warnings),
        "stages": [write_record(_bounded(record)) for record in draft.records.values()],
        "progress": so_far,
        "image": draft.image,
        "recipes": {str(name): number for name, number in draft.recipes.items()},
        "storage": _storage(draft),
    }
    if draft.settings.image_pull_secrets:
        status["imagePullSecrets"] = list(dict.fromkeys(draft.settings.image_pull_secrets))
    if draft.pins:
        status["sources"] = [{"name": n, "version": v, "spec": s} for n, (v, s) in sorted(draft.pins.items())]
    asked = {"retry": draft.subject.retry, "refresh": draft.subject.refresh}
    status |= {name: value for name, value in asked.items() if value}
    if artifacts := _artifacts(draft):
        status["artifacts"] = artifacts
    if served := _served(draft):
        status["ollama"] = served
    return status


def _storage(draft: Draft) -> dict[str, Any]:
    """Return the volume that the job's pods use, so that others can look at it as they do."""
    subject = draft.subject
    storage = effective_storage(subject.job, subject.namespace, draft.settings)
    plain = storage.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {name: value for name, value in plain.items() if value != []}


def _how_done(stage: PlannedStage, record: StageRecord) -> str:
    if not stage.units:
        return "NotNeeded"  # there is no training of a base that is a GGUF
    return "Cached" if record.cached else "Done"


def _bounded(record: StageRecord) -> StageRecord:
    stopped = record.state in {State.FAILED, State.WAITING} and record.reason
    return replace(
        record,
        message=record.message[:_MAX_MESSAGE],
        hint=record.hint[:1024],
        log_tail=record.log_tail[:MOST_BYTES] if stopped else "",
    )


def _conditions(draft: Draft, stands: Standing, warnings: tuple[str, ...]) -> list[dict[str, Any]]:
    ended = stands.ready or stands.stalled
    wanted = [
        ("Ready", "True" if stands.ready else "False", stands.reason, stands.message),
        ("Reconciling", "False" if ended else "True", stands.reason, stands.message),
        ("Stalled", "True" if stands.stalled else "False", stands.reason, stands.message if stands.stalled else ""),
        ("Succeeded", "True" if stands.ready else "False" if stands.stalled else "Unknown", stands.reason, ""),
    ]
    for stage in draft.plan.stages:
        record = draft.records[stage.name]
        if stage.state is StageState.DONE:
            wanted.append((_DONE[stage.name], "True", _how_done(stage, record), ""))
        elif record.state is State.FAILED:
            wanted.append((_DONE[stage.name], "False", record.reason, record.message))
        elif record.attempts or record.state in ACTIVE:
            wanted.append((_DONE[stage.name], "Unknown", record.reason or str(record.state), record.message))
    if warnings:
        said = "the operator does not know and passes over: " + ", ".join(warnings)
        wanted.append(("UnknownFields", "True", "UnknownFields", said))
    return conditions(wanted, draft.subject.status, draft.subject.generation, draft.now)


def conditions(
    wanted: list[tuple[str, str, str, str]], before: Mapping[str, Any], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Return conditions (type, status, reason, message); the time of a change is kept where the status is the same."""
    earlier = {item.get("type"): item for item in before.get("conditions") or () if isinstance(item, Mapping)}
    made = []
    for kind, status, reason, message in wanted:
        old = earlier.get(kind, {})
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        made.append(
            {
                "type": kind,
                "status": status,
                "reason": reason if re.fullmatch(REASON_PATTERN, reason) else "Unknown",
                "message": message[:_MAX_MESSAGE],
                "observedGeneration": generation,
                "lastTransitionTime": since or to_text(now),
            }
        )
    return made


def invalid_status(
    before: Mapping[str, Any], generation: int, reason: str, message: str, now: datetime
) -> dict[str, Any]:
    """Return the status of a job that cannot be read at all; what is known of its stages is kept."""
    wanted = [
        ("Ready", "False", reason, message),
        ("Reconciling", "False", reason, message),
        ("Stalled", "True", reason, message),
        ("Succeeded", "False", reason, ""),
    ]
    kept = {name: value for name, value in before.items() if name != "conditions"}
    return {**kept, "observedGeneration": generation, "conditions": conditions(wanted, before, generation, now)}


def _progress(draft: Draft, stands: Standing, told: Mapping[str, Any]) -> dict[str, Any]:
    progress: dict[str, Any] = {"stage": str(stands.stage or "")}
    numbers = draft.records[StageName.TRAIN].numbers
    if draft.plan.stage(StageName.TRAIN).state is StageState.DONE:
        progress |= {name: numbers[name] for name in ("loss", "evalLoss") if name in numbers}
    if stands.ready:
        return {**progress, "text": "100 %"}
    if stands.stage is StageName.TRAIN and not stands.stalled:
        progress |= _reached(draft)
    if stands.stage and told.get("stage") == stands.stage and draft.records[stands.stage].state is State.RUNNING:
        return {**progress, **told}
    return progress


def _reached(draft: Draft) -> dict[str, Any]:
    """Return how far a training was that does not run now, or has told nothing yet: it goes on from a checkpoint."""
    before = draft.subject.status.get("progress") or {}
    same = draft.subject.records[StageName.TRAIN].keys == draft.records[StageName.TRAIN].keys
    if not same or before.get("stage") != StageName.TRAIN or not (before.get("done") and before.get("total")):
        return {}
    kept = {name: before[name] for name in ("done", "total", "of", "loss", "evalLoss") if name in before}
    return {**kept, "text": percentage(before["done"], before["total"])}


def _artifacts(draft: Draft) -> list[dict[str, Any]]:
    spec = draft.subject.job.spec
    names = model_name.live_names(spec.ollama.model, [str(item) for item in spec.export.quantizations])
    inputs = known_inputs(draft)
    sizes = {unit.key: unit.bytes for record in draft.records.values() for unit in record.units}
    return [
        {
            "name": unit.name,
            "path": f"{inputs[unit.role].path}/model.gguf",
            "digest": inputs[unit.role].digest,
            "bytes": sizes[unit.key],
            "model": names[unit.name],
        }
        for unit in draft.plan.stage(StageName.QUANTIZE).units
        if unit.role in inputs
    ]


def _served(draft: Draft) -> list[dict[str, Any]]:
    spec = draft.subject.job.spec
    names = list(model_name.live_names(spec.ollama.model, [str(item) for item in spec.export.quantizations]).values())
    stage = draft.plan.stage(StageName.REGISTER)
    missing = {unit.key for unit in stage.missing}
    return [{"server": unit.name, "models": names} for unit in stage.units if unit.key not in missing]


# --- what is told as Events ------------------------------------------------------------------------------------------

_QUIET = frozenset({"Pending", *_DOING.values()})
_WAITS = frozenset({"Queued", "Suspended", "Stopping", "WaitingForJob"})
"""Reasons to wait that are nobody's fault."""


def notes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Note]:
    """Return what changed between two statuses that people want to find among a job's Events."""
    told = []
    earlier = {item.get("name"): item for item in before.get("stages") or () if isinstance(item, Mapping)}
    for item in after.get("stages") or ():
        old = earlier.get(item["name"], {})
        if item["state"] == old.get("state") and item.get("job") == old.get("job"):
            continue
        stage = StageName(item["name"])
        if item["state"] == State.PENDING and item.get("job") != old.get("job"):
            told.append(Note("Normal", _DOING[stage], f"Job {item['job']} makes {stage}, attempt {item['attempts']}"))
        elif item["state"] == State.SUCCEEDED and stage is not StageName.REHEARSE:
            how = "was there already" if item.get("cached") else "is done"
            told.append(Note("Normal", _DONE[stage], f"{stage} {how}"))
        elif item["state"] == State.FAILED or (item["state"] == State.WAITING and item.get("reason")):
            told.append(Note("Warning", item.get("reason", "Failed"), f"{stage}: {item.get('message', '')}"[:1000]))
    was, now = _ready(before), _ready(after)
    if now.get("reason") != was.get("reason") and now.get("reason") not in _QUIET:
        kind = "Normal" if now.get("status") == "True" or now.get("reason") in _WAITS else "Warning"
        if not any(note.reason == now["reason"] for note in told):
            told.append(Note(kind, now["reason"], str(now.get("message", ""))[:1000]))
    return told


def _ready(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((item for item in status.get("conditions") or () if item.get("type") == "Ready"), {})
