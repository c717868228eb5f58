"""The operator's one decision: from a FineTuneJob, its status and what is on the cluster to what is done next.

:func:`decide` is pure and level-triggered. It is called whenever anything changed, starts from what its last answer
left in the status, takes in what ended since, plans, and returns the whole next status with the actions that lead on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from tunesmith.api import keys as names
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.settings import Settings
from tunesmith.api.status import State
from tunesmith.core import retries
from tunesmith.core.base_job import BaseJob
from tunesmith.core.manifests import Child, ManifestError, child_manifests, child_name
from tunesmith.core.model import Plan, PlannedStage, StageState
from tunesmith.core.observe import NO_IMAGE, NOTHING_YET, ObservedJob, Phase, Waiting
from tunesmith.core.plan import later_units, plan, source_kinds, source_specs
from tunesmith.core.record import ACTIVE, StageRecord, UnitRecord, as_result, read_records
from tunesmith.core.times import to_text
from tunesmith_stages.contract import (
    KEY_DIGITS,
    RECIPES,
    UNITS_PER_PROGRAM,
    ExitCode,
    Failure,
    Input,
    Report,
    StageName,
    StageResult,
    UnitReport,
)

INPUT_LOST = "InputLost"
"""Reason with which a stage says that what the operator believes of earlier stages is not on the volume."""
_BASE = "base"
"""The unit of `fetch` that brings the base model."""
_DELETION_POLL = 2.0
_ORDER = list(StageName)
_REPORT_LOST = Waiting("ReportLost", "its Pod is gone; it is looked up")
_REPORT_LOST_TOO = ("ReportLost", "the Pod that looked it up is gone too", "")


@dataclass(frozen=True)
class Subject:
    """The FineTuneJob that is decided about."""

    job: FineTuneJob
    uid: str
    namespace: str
    generation: int
    status: Mapping[str, Any]
    retry: str = ""
    """Value of the annotation that asks for another try."""
    refresh: str = ""
    """Value of the annotation that asks to look at the sources again."""

    @cached_property
    def records(self) -> Mapping[StageName, StageRecord]:
        """What the status remembers of the stages."""
        return read_records(self.status)


@dataclass(frozen=True)
class World:
    """What there is besides it."""

    jobs: tuple[ObservedJob, ...] = ()
    """Its child Jobs."""
    made_elsewhere: Callable[[Iterable[str]], Mapping[str, str]] = lambda _keys: {}
    """Tells, by key, which other FineTuneJob of this namespace makes a unit now."""
    obstacle: tuple[str, str] | None = None
    """Reason and sentence if the job must not go on as it is written: an unknown server, a name that is taken."""
    base: BaseJob | None = None
    """The FineTuneJob that trains the base, if one does."""
    save_seconds: int = 0
    """Longest time that the running training took to save a checkpoint, as its log tells."""


@dataclass
class Draft:
    """What one decision works on; lives no longer than that."""

    subject: Subject
    world: World
    settings: Settings
    now: datetime
    records: dict[StageName, StageRecord]
    pins: dict[str, tuple[str, str]]
    """By unit of `fetch`: the source's version, and the digest of the spec that it was found for."""
    image: str
    recipes: Mapping[StageName, int]
    touched: bool
    """Whether the job was edited, or another try was asked for, since the last decision."""
    plan: Plan
    rehearsed: bool = False
    create: tuple[dict[str, Any], ...] = ()
    """Kubernetes objects to be created, in this order."""
    unstarted: StageRecord | None = None
    """Record, as it is if they cannot be created, of the stage of which they begin an attempt."""
    delete: tuple[str, ...] = ()
    wake_after: float | None = None
    waits_for: tuple[str, str] | None = None
    """Reason and sentence if nothing can be started although something is to be done."""
    stalled: tuple[str, str] | None = None

    @property
    def finished(self) -> bool:
        """Whether everything is done that is wanted."""
        following = self.plan.next
        gate = _ORDER.index(StageName.REHEARSE)
        return following is None or (self.subject.job.spec.dry_run and _ORDER.index(following.name) > gate)

    def wake(self, seconds: float) -> None:
        """Ask to be called again after `seconds` at the latest."""
        self.wake_after = seconds if self.wake_after is None else min(self.wake_after, seconds)


def is_settled(status: Mapping[str, Any], generation: int, refresh: str) -> bool:
    """Tell whether a job ended well as it is written now: then it is never planned again.

    Args:
        status: of the FineTuneJob.
        generation: of its spec.
        refresh: value of the annotation that asks to look at the sources again.
    """
    return (
        _holds(status, "Succeeded")
        and status.get("observedGeneration") == generation
        and status.get("refresh", "") == refresh
    )


def decide(subject: Subject, world: World, settings: Settings, now: datetime) -> Draft:
    """Return what is to be done, and what the status must say then (``core.conditions.next_status`` writes it)."""
    draft = _open(subject, world, settings, now)
    _take_in(draft)
    _stop_unwanted(draft)
    if world.obstacle is not None:
        if not any(record.state is State.RUNNING for record in draft.records.values()):
            draft.stalled = world.obstacle  # what runs goes on to its end
    elif not draft.finished:
        if subject.job.spec.suspend:
            draft.waits_for = ("Suspended", "`spec.suspend` is true")
        elif (base := _lacking_base(draft)) is not None:
            draft.waits_for, draft.stalled = base.waits_for, base.stalled
        else:
            _go_on(draft)
    _close(draft)
    return draft


# --- where the last decision left off --------------------------------------------------------------------------------


def _open(subject: Subject, world: World, settings: Settings, now: datetime) -> Draft:
    status = subject.status
    records = dict(subject.records)
    asked_again = status.get("retry", "") != subject.retry
    edited = status.get("observedGeneration") != subject.generation
    if asked_again or edited:
        records = {name: retries.forgive(record) for name, record in records.items()}
    specs = source_specs(subject.job)
    pins = {
        item["name"]: (str(item.get("version", "")), str(item.get("spec", "")))
        for item in status.get("sources") or ()
        if isinstance(item, Mapping) and item.get("spec") == specs.get(item.get("name", ""))
    }
    if status.get("refresh", "") != subject.refresh:
        pins = {}
        records[StageName.FETCH] = replace(records[StageName.FETCH], units=(), state=State.WAITING)
    if world.base is not None and world.base.trained:
        pins.setdefault(_BASE, (world.base.trained, specs[_BASE]))
    fresh = _takes_image_anew(subject, world, records, asked_again=asked_again, edited=edited)
    stamped = {} if fresh else status.get("recipes") or {}
    draft = Draft(
        subject,
        world,
        settings,
        now,
        records,
        pins,
        image=settings.stage_image if fresh else str(status["image"]),
        recipes={name: int(stamped.get(name, RECIPES[name])) for name in StageName},
        touched=asked_again or edited,
        plan=Plan(subject.job.metadata.name, ()),
    )
    _plan(draft)
    return draft


def _takes_image_anew(
    subject: Subject, world: World, records: Mapping[StageName, StageRecord], *, asked_again: bool, edited: bool
) -> bool:
    """Tell whether the image, and with it what its stages make, is taken from the settings now.

    A job keeps the one that it began with until it ended or was stopped by a failure and somebody edits it, until
    another try is asked for, or if nodes cannot get it and what was made already counts with another one, too.
    """
    status = subject.status
    if not status.get("image"):
        return True
    stamped = status.get("recipes") or {}
    as_before = all(stamped.get(name, RECIPES[name]) == RECIPES[name] for name in StageName)
    findable = as_before or not any(record.units for record in records.values())
    if findable and any(job.waiting is not None and job.waiting.reason == NO_IMAGE for job in world.jobs):
        return True
    if any(record.state in ACTIVE for record in records.values()):
        return False
    ended = any(_holds(status, kind) for kind in ("Succeeded", "Stalled"))
    return asked_again or (edited and ended)


def _holds(status: Mapping[str, Any], kind: str) -> bool:
    conditions = status.get("conditions") or ()
    return any(item.get("type") == kind and item.get("status") == "True" for item in conditions)


def _plan(draft: Draft) -> None:
    versions = {name: version for name, (version, _) in draft.pins.items()}
    kinds = source_kinds(draft.subject.job)
    results: dict[str, StageResult] = {
        unit.key: as_result(record.name, unit, kinds.get(unit.name, ""))
        for record in draft.records.values()
        for unit in record.units
    }
    job, recipes = draft.subject.job, draft.recipes
    draft.plan = plan(job, results, source_versions=versions, recipes=recipes)
    gate = draft.records[StageName.REHEARSE]
    wanted = tuple(unit.key for unit in draft.plan.stage(StageName.REHEARSE).units)
    draft.rehearsed = gate.state is State.SUCCEEDED and gate.keys == wanted
    if draft.rehearsed:
        draft.plan = plan(job, results, source_versions=versions, recipes=recipes, rehearsed=True)


# --- what ended since ------------------------------------------------------------------------------------------------


def _take_in(draft: Draft) -> None:
    """Take in what child Jobs came to, until nothing new follows from it."""
    while True:
        before = (dict(draft.records), dict(draft.pins))
        for stage in draft.plan.stages:
            _adopt(draft, stage)
            _take_in_job(draft, stage)
        _match_reports(draft)
        if before == (draft.records, draft.pins):
            return
        _plan(draft)


def _adopt(draft: Draft, stage: PlannedStage) -> None:
    """Take a child Job of what is wanted for the stage's own that the status does not know of.

    The operator died between creating it and saying so, or the status was lost.
    """
    record = draft.records[stage.name]
    wanted, missing = {unit.key for unit in stage.units}, {unit.key for unit in stage.missing}
    for job in draft.world.jobs:
        known = job.keys == record.keys and job.attempt <= record.attempts
        ended = job.phase in {Phase.SUCCEEDED, Phase.FAILED}
        # What ended under another spec says nothing of now: least of all what a server serves.
        # A registration is repeated rather than believed: another one may have come after it, whose Job is gone.
        newer = job.keys == record.keys and job.attempt > record.attempts
        believed = stage.name is not StageName.REGISTER and (record.attempts == 0 or newer)
        stale = job.phase is Phase.DELETING or (ended and not believed)
        if job.stage is not stage.name or job.lookup or known or stale:
            continue
        if (
            missing.intersection(job.keys)
            and set(job.keys) <= wanted
            and not (record.state in ACTIVE and _named(draft, record.job))
        ):
            again = job.keys == record.keys
            base = record if again else retries.reset(record, job.keys)
            record = replace(base, job=job.name, attempts=job.attempt, state=State.PENDING, started=job.started)
            draft.records[stage.name] = record


def _named(draft: Draft, name: str, *, lookup: bool = False) -> ObservedJob | None:
    return next((job for job in draft.world.jobs if job.name == name and job.lookup is lookup), None)


def _take_in_job(draft: Draft, stage: PlannedStage) -> None:
    record = draft.records[stage.name]
    if record.state not in ACTIVE:
        return
    job = _named(draft, record.job)
    reports = job is not None and job.phase is Phase.SUCCEEDED and job.report is not None
    if job is None or (record.state is State.UNKNOWN and not reports):
        if job is None and record.started:
            record = retries.charge(record, to_text(draft.now))
        draft.records[stage.name] = _settle(draft, record)
        return
    if job.phase is Phase.SUCCEEDED:
        draft.records[stage.name] = _succeeded(record, job)
    elif job.phase is Phase.FAILED:
        draft.records[stage.name] = _failed(draft, record, job)
    elif job.phase is Phase.DELETING:
        draft.records[stage.name] = retries.interrupted(record, job, draft.now, "its Job was deleted")
        draft.wake(_DELETION_POLL)
    else:
        state = State.RUNNING if job.phase is Phase.RUNNING else State.PENDING
        if record.started not in {"", job.started}:  # its Pod was replaced, or is to be
            record = retries.charge(record, job.started or to_text(draft.now))
        waiting = job.waiting if state is State.PENDING and job.waiting != NOTHING_YET else None
        draft.records[stage.name] = replace(
            record,
            state=state,
            started=job.started,
            reason=waiting.reason if waiting else "",
            message=waiting.message[:1024] if waiting else "",
            hint="",
            save_seconds=max(record.save_seconds, draft.world.save_seconds)
            if stage.name is StageName.TRAIN
            else record.save_seconds,
        )
        _end_in_time(draft, stage.name, job)


def _end_in_time(draft: Draft, stage: StageName, job: ObservedJob) -> None:
    """End a training that has used up its time though its Pod has not: that was given more than is left by now.

    A queue or an eviction lets the same Job have one Pod after the other, or somebody lowered the deadline.
    """
    deadline, record = draft.subject.job.spec.active_deadline_seconds, draft.records[stage]
    if deadline is None or job.deadline is None or record.elapsed + job.deadline <= deadline:
        return
    charged = retries.charge(record, to_text(draft.now)) if record.started else record
    if charged.elapsed >= deadline:
        draft.records[stage] = retries.out_of_time(charged, deadline)
    elif record.started:
        draft.wake(deadline - charged.elapsed)


def _succeeded(record: StageRecord, job: ObservedJob) -> StageRecord:
    if job.report is None:
        return replace(record, state=State.UNKNOWN, reason=_REPORT_LOST.reason, message=_REPORT_LOST.message)
    told = {unit.key for unit in job.report.units}
    complete = record.name is StageName.REHEARSE or told.issuperset(key[:KEY_DIGITS] for key in record.keys)
    return replace(
        record,
        state=State.SUCCEEDED,
        started=job.started,
        finished=job.finished,
        reason="",
        message="",
        hint="",
        exit_code=None,
        failures=0 if complete else record.failures,
        interruptions=0,
        next_attempt="",
        cached=bool(job.report.units) and all(unit.cached for unit in job.report.units),
        numbers={name: f"{value:.6g}" for name, value in sorted(job.report.numbers.items())},
    )


def _failed(draft: Draft, record: StageRecord, job: ObservedJob) -> StageRecord:
    assert job.failure is not None  # noqa: S101 - observe gives every failed Job a cause
    if job.interrupted:
        ended = retries.interrupted(record, job, draft.now, job.failure.message)
        if not job.out_of_time:
            return ended
        return replace(ended, elapsed=max(ended.elapsed, record.elapsed + (job.deadline or 0)), next_attempt="")
    if job.failure.reason == INPUT_LOST:
        _forget_before(draft, record.name)
    return retries.failed(record, job, job.failure, draft.now)


def _forget_before(draft: Draft, stage: StageName) -> None:
    """Forget the results of earlier stages: they are not on the volume. Each is looked at again.

    The versions of the sources stay: a branch of a hub that has moved on since is not followed.
    """
    for name in _ORDER[: _ORDER.index(stage)]:
        draft.records[name] = replace(retries.forgive(draft.records[name]), units=(), state=State.WAITING)


def _settle(draft: Draft, record: StageRecord) -> StageRecord:
    """Find out what came of a Job that left no report: by the Job that looks it up, which is created if need be."""
    if record.name is StageName.REHEARSE:  # it leaves nothing on the volume
        return replace(record, state=State.WAITING, reason="", message="")
    lookup = next((job for job in draft.world.jobs if job.lookup and job.attempt_id == record.attempt_id), None)
    if lookup is None or lookup.phase not in {Phase.SUCCEEDED, Phase.FAILED}:
        waiting = lookup.waiting if lookup is not None else None
        if record.state is State.UNKNOWN and record.next_attempt and lookup is None:
            return record
        if waiting is None or waiting == NOTHING_YET:
            waiting = _REPORT_LOST
        return replace(record, state=State.UNKNOWN, reason=waiting.reason, message=waiting.message[:1024], hint="")
    if record.next_attempt:
        return record  # that it failed is known, and it is to be done again
    if lookup.phase is Phase.FAILED or lookup.report is None:
        failure = lookup.failure or Failure(ExitCode.TEMPORARY, *_REPORT_LOST_TOO)
        return retries.look_up_again(record, failure, draft.now)
    if len(lookup.report.units) >= len(record.keys):
        return replace(_succeeded(record, lookup), cached=False)
    return retries.lost(record, draft.now)


def _match_reports(draft: Draft) -> None:
    """Remember every unit of the plan that a report of a current Job tells of, made by that Job or found by it."""
    reported = _reports(draft)
    if not reported:
        return
    specs = source_specs(draft.subject.job)
    for stage in draft.plan.stages:
        record = draft.records[stage.name]
        if stage.name is StageName.REHEARSE:
            continue
        if stage.name is StageName.FETCH:
            _match_sources(draft, stage, specs)
            continue
        found = [
            UnitRecord(unit.name, unit.key, said.digest, said.bytes)
            for unit in stage.missing
            if (said := reported.get(unit.key[:KEY_DIGITS])) is not None
        ]
        if found:
            draft.records[stage.name] = _with_units(record, found, stage)


def _reports(draft: Draft) -> dict[str, UnitReport]:
    """Return, by the beginning of the key, what Jobs that the record knows of have reported."""
    ended = [record for record in draft.records.values() if record.state is State.SUCCEEDED]
    reports = [report for record in ended if (report := _report_of(draft, record)) is not None]
    return {unit.key: unit for report in reports for unit in report.units}


def _report_of(draft: Draft, record: StageRecord) -> Report | None:
    """Return what the newest attempt of a stage has reported, or what was looked up in its place."""
    jobs = [job for job in draft.world.jobs if job.attempt_id == record.attempt_id and job.report is not None]
    return min(jobs, key=lambda job: job.lookup).report if jobs else None


def _match_sources(draft: Draft, stage: PlannedStage, specs: Mapping[str, str]) -> None:
    """Pin the sources whose version the newest `fetch` has reported, and remember where they lie."""
    record = draft.records[StageName.FETCH]
    report = _report_of(draft, record)
    if record.state is not State.SUCCEEDED or report is None:
        return
    said = {unit.key: unit for unit in report.units}
    asked = {unit.name: unit for unit in stage.missing if unit.key in record.keys}
    fresh = {name: said[unit.key[:KEY_DIGITS]] for name, unit in asked.items() if unit.key[:KEY_DIGITS] in said}
    if not fresh:
        return
    for name, unit in fresh.items():
        draft.pins[name] = (unit.version, specs[name])
    versions = {name: version for name, (version, _) in draft.pins.items()}
    resolved = plan(draft.subject.job, {}, source_versions=versions, recipes=draft.recipes).stage(StageName.FETCH)
    found = [
        UnitRecord(unit.name, unit.key, fresh[unit.name].digest, fresh[unit.name].bytes, fresh[unit.name].version)
        for unit in resolved.units
        if unit.name in fresh
    ]
    draft.records[StageName.FETCH] = _with_units(record, found, resolved)


def _with_units(record: StageRecord, found: Iterable[UnitRecord], stage: PlannedStage) -> StageRecord:
    units = {unit.key: unit for unit in (*record.units, *found)}
    complete = all(unit.key in units for unit in stage.units)
    record = replace(record, units=tuple(units.values()))
    if complete and record.state not in {State.SUCCEEDED, *ACTIVE}:
        return replace(record, state=State.SUCCEEDED, cached=True, reason="", message="", hint="", next_attempt="")
    return record


# --- what is to be done ----------------------------------------------------------------------------------------------


def _stop_unwanted(draft: Draft) -> None:
    """Delete child Jobs that make what is not wanted any more, or that are held up and would be made differently now.

    Everything, if the job is suspended. Where the keys of a stage are not known (an earlier stage has changed), what
    runs goes on until they are.
    """
    unwanted = []
    for job in draft.world.jobs:
        if job.phase not in {Phase.PENDING, Phase.RUNNING, Phase.QUEUED}:
            continue
        if _is_unwanted(draft, job):
            unwanted.append(job.name)
            record = draft.records[job.stage]
            if record.job == job.name and record.state in ACTIVE:
                ended = retries.interrupted(record, job, draft.now, "")
                draft.records[job.stage] = replace(ended, reason="")  # it is as asked for: nothing to be told of
    draft.delete = tuple(unwanted)


def _is_unwanted(draft: Draft, job: ObservedJob) -> bool:
    spec, stage = draft.subject.job.spec, draft.plan.stage(job.stage)
    outdated = bool(stage.units) and not set(job.keys) <= {unit.key for unit in stage.missing}
    return (
        outdated
        or spec.suspend
        or (spec.dry_run and _ORDER.index(job.stage) > _ORDER.index(StageName.REHEARSE))
        or (draft.world.obstacle is not None and job.phase is not Phase.RUNNING)
        or _is_nobodys(draft.records[job.stage], job)
        or _would_differ(draft, stage, job)
    )


def _is_nobodys(record: StageRecord, job: ObservedJob) -> bool:
    """Tell whether a Job goes on that the record has given up: its sources or inputs are to be looked at again."""
    return job.keys == record.keys and job.attempt <= record.attempts and record.state not in ACTIVE


def _would_differ(draft: Draft, stage: PlannedStage, job: ObservedJob) -> bool:
    """Tell whether a Job that something holds up would be another one now: another image, other resources, a queue.

    So what holds it up can be mended by an edit of the job or of the administrator's settings; of what waits in a
    queue, by an edit of the job alone.
    """
    if job.waiting is None or job.waiting == NOTHING_YET or not job.keys:
        return False
    if job.phase is Phase.QUEUED and not draft.touched:
        return False  # it would lose its place in the queue
    units = tuple(unit for unit in stage.units if unit.key in job.keys)
    record = draft.records[stage.name]
    child = _child(draft, replace(stage, missing=units), job.attempt, record, lookup=job.lookup)
    try:
        made = child_manifests(child, draft.settings)[-1]
    except ManifestError:
        return False
    return bool(made["metadata"]["annotations"][names.MANIFEST_ANNOTATION] != job.manifest)


def _lacking_base(draft: Draft) -> BaseJob | None:
    """Return the job that must train the base before anything is begun; None if it has, or `fetch` was begun."""
    begun = draft.records[StageName.FETCH].state in {*ACTIVE, State.FAILED}
    return None if begun or _BASE in draft.pins else draft.world.base


def _go_on(draft: Draft) -> None:
    """Start the next stage, or say why not."""
    stage = draft.plan.next
    assert stage is not None  # noqa: S101 - the caller asked
    units = stage.missing[:UNITS_PER_PROGRAM]
    stage = replace(stage, missing=units)
    keys = tuple(unit.key for unit in units)
    record = draft.records[stage.name]
    if record.keys != keys:
        if record.state in {State.PENDING, State.RUNNING}:
            return  # what runs makes a part of it, or is about to be deleted
        record = retries.reset(record, keys)
        draft.records[stage.name] = record
    if record.state is State.FAILED:
        draft.stalled = (record.reason, f"{record.message} {record.hint}".strip())
        return
    if record.state in {State.PENDING, State.RUNNING}:
        return
    if record.state is State.SUCCEEDED and stage.name is not StageName.REHEARSE:
        record = draft.records[stage.name] = retries.lost(record, draft.now)  # its report lacks what it was to make
    if (wait := retries.seconds_left(record, draft.now)) > 0:
        draft.wake(wait)
        return
    if record.state is State.UNKNOWN:
        _look_up(draft, stage, record)
        return
    ending = (job for job in draft.world.jobs if job.phase is Phase.DELETING or job.name in draft.delete)
    if any(job.stage is stage.name and job.keys == keys for job in ending):
        draft.wake(_DELETION_POLL)
        draft.waits_for = ("Stopping", "the Job before it is still ending")
        return
    others = sorted(set(draft.world.made_elsewhere(keys).values()))
    if others:
        draft.waits_for = (
            "MadeElsewhere",
            f"Pods of FineTuneJob {others[0]} work on the same now; what they leave is used",
        )
        draft.wake(10)
        return
    _start(draft, stage, record)


def _start(draft: Draft, stage: PlannedStage, record: StageRecord) -> None:
    deadline = draft.subject.job.spec.active_deadline_seconds if stage.name is StageName.TRAIN else None
    if deadline is not None and record.elapsed >= deadline:
        draft.records[stage.name] = retries.out_of_time(record, deadline)
        draft.stalled = (draft.records[stage.name].reason, draft.records[stage.name].message)
        return
    there = [job.attempt for job in draft.world.jobs if job.stage is stage.name and job.keys == record.keys]
    attempt = max(record.attempts, *there, 0) + 1 if there else record.attempts + 1
    child = _child(draft, stage, attempt, record)
    if not _create(draft, child):
        return
    draft.unstarted = replace(
        record,
        state=State.WAITING,
        started="",
        finished="",
        next_attempt="",
        reason="",
        message="",
        hint="",
        exit_code=None,
        cached=False,
    )
    draft.records[stage.name] = replace(draft.unstarted, state=State.PENDING, job=child_name(child), attempts=attempt)


def _look_up(draft: Draft, stage: PlannedStage, record: StageRecord) -> None:
    """Have it looked up what an attempt came to, once more if that failed before."""
    child = _child(draft, stage, record.attempts, record, lookup=True)
    before = _named(draft, child_name(child), lookup=True)
    if before is None:
        if _create(draft, child):
            draft.records[stage.name] = replace(record, next_attempt="")
    elif before.phase in {Phase.SUCCEEDED, Phase.FAILED}:
        draft.delete = (*draft.delete, before.name)
        draft.wake(_DELETION_POLL)
    elif before.phase is Phase.DELETING:
        draft.wake(_DELETION_POLL)


def _create(draft: Draft, child: Child) -> bool:
    """Have a child created; tell whether it can be."""
    try:
        draft.create = child_manifests(child, draft.settings)
    except ManifestError as error:
        draft.stalled = (error.reason, f"{error.message}. {error.hint}")
        return False
    return True


def _child(
    draft: Draft,
    stage: PlannedStage,
    attempt: int,
    record: StageRecord,
    *,
    lookup: bool = False,
) -> Child:
    subject = draft.subject
    trains = stage.name is StageName.TRAIN
    deadline = subject.job.spec.active_deadline_seconds if trains else None
    return Child(
        job=subject.job,
        uid=subject.uid,
        namespace=subject.namespace,
        stage=stage,
        attempt=attempt,
        later=later_units(subject.job, stage.name),
        known=known_inputs(draft),
        image=draft.image,
        deadline=None if deadline is None else max(1, deadline - record.elapsed),
        grace=retries.grace_seconds(record.save_seconds) if trains else None,
        lookup=lookup,
    )


def known_inputs(draft: Draft) -> dict[str, Input]:
    """Return, by role, everything that has a result."""
    kinds = source_kinds(draft.subject.job)
    found = {unit.key: (record.name, unit) for record in draft.records.values() for unit in record.units}
    return {
        unit.role: as_result(*found[unit.key], kinds.get(unit.name, "")).as_input()
        for stage in draft.plan.stages
        for unit in stage.units
        if unit.key in found and unit.role
    }


def _close(draft: Draft) -> None:
    """Make the record say what the plan says: a stage is done if its results are there, and no others are kept.

    What was made before an earlier stage changed counts again if that comes to the same; until then it is not done.
    """
    for stage in draft.plan.stages:
        record, keys = draft.records[stage.name], {unit.key for unit in stage.units}
        if keys and stage.name is not StageName.REHEARSE:
            record = replace(record, units=tuple(unit for unit in record.units if unit.key in keys))
        if stage.state is not StageState.DONE and _tells_of_something_else(record, keys):
            record = replace(record, state=State.WAITING)
        if stage.state is StageState.DONE and record.state is not State.SUCCEEDED:
            record = replace(record, state=State.SUCCEEDED, reason="", message="", hint="", next_attempt="")
        draft.records[stage.name] = record


def _tells_of_something_else(record: StageRecord, keys: Iterable[str]) -> bool:
    """Tell whether a stage is said to be done, but of other keys than are wanted; the rehearsal has its own gate."""
    done = record.state is State.SUCCEEDED and record.name is not StageName.REHEARSE
    return done and {*record.keys}.isdisjoint(keys)
