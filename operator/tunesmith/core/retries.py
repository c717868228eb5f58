"""What becomes of a stage that ended without its result: tried again at once, later, or not before somebody acts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from tunesmith.api.status import State
from tunesmith.core.observe import ObservedJob, Phase
from tunesmith.core.record import StageRecord
from tunesmith.core.times import seconds_between, to_text, to_time
from tunesmith_stages.contract import Failure
from tunesmith_stages.reasons import retry_of
from tunesmith_stages.reasons.classes import INTERRUPTED, OUT_OF_TIME
from tunesmith_stages.reasons.retry import AT_ONCE, LATER, SHORT_LIVED

DEFAULT_GRACE = 300
"""Seconds that a training gets to end, as long as it is not known how long the saving of a checkpoint takes."""
_SHORTEST_GRACE = 60
_MOST = 86_400


def seconds_left(record: StageRecord, now: datetime) -> float:
    """Return the seconds until a stage may be tried again; 0 also if the clock was put back since that was said."""
    due = to_time(record.next_attempt)
    left = (due - now).total_seconds() if due is not None else 0.0
    return left if 0 < left <= max(LATER.longest, AT_ONCE.longest) else 0.0


def reset(record: StageRecord, keys: tuple[str, ...]) -> StageRecord:
    """Return the record of a stage that is to make something else now."""
    return replace(StageRecord(record.name, units=record.units), keys=keys)


def forgive(record: StageRecord) -> StageRecord:
    """Return a record whose failures are forgotten, because somebody edited the job or asked for another try."""
    if record.state is State.UNKNOWN:
        return replace(record, failures=0, next_attempt="")
    if record.state is State.FAILED or record.next_attempt:
        whole = replace(record, failures=0, interruptions=0, next_attempt="")
        return replace(whole, state=State.WAITING, reason="", message="", hint="")
    return record


def charge(record: StageRecord, until: str) -> StageRecord:
    """Return the record of a stage whose program has ended at the time `until`, though its attempt goes on."""
    return replace(record, elapsed=record.elapsed + seconds_between(record.started, until), started="")


def interrupted(record: StageRecord, job: ObservedJob, now: datetime, why: str) -> StageRecord:
    """Return the record of a stage that was ended from outside: it is tried again, and this one is not a failure.

    What the cluster ends again and again as soon as it has begun waits longer each time.
    """
    began = job.started or record.started
    lasted = seconds_between(began, job.finished or to_text(now)) if began else 0
    in_vain = job.phase is Phase.FAILED and lasted < SHORT_LIVED
    wait = AT_ONCE.delay(record.interruptions) if in_vain else 0
    return replace(
        record,
        state=State.WAITING,
        interruptions=record.interruptions + 1 if in_vain else 0,
        elapsed=record.elapsed + lasted,
        finished=job.finished,
        reason=INTERRUPTED.name,
        message=why[:1024],
        hint="",
        log_tail=job.log_tail,
        next_attempt=to_text(now + timedelta(seconds=wait)) if wait else "",
    )


def failed(record: StageRecord, job: ObservedJob, failure: Failure, now: datetime) -> StageRecord:
    """Return the record of a stage that failed: tried again, at once or later each time, or not, as the table says."""
    retry = retry_of(failure.reason, failure.code)
    if not retry.tried:
        return replace(_with_failure(record, job, failure, now), state=State.FAILED)
    if not retry.charged:
        return interrupted(record, job, now, failure.message)
    return replace(
        _with_failure(record, job, failure, now),
        state=State.WAITING,
        failures=record.failures + 1,
        next_attempt=to_text(now + timedelta(seconds=retry.delay(record.failures))),
    )


def lost(record: StageRecord, now: datetime) -> StageRecord:
    """Return the record of a stage that ended well, without a result: it is made again, the first time at once."""
    again = "" if record.failures == 0 else to_text(now + timedelta(seconds=LATER.delay(record.failures)))
    return replace(
        record,
        state=State.WAITING,
        failures=record.failures + 1,
        reason="ResultLost",
        message="it ended, but its result is not on the volume",
        hint="",
        next_attempt=again,
    )


def look_up_again(record: StageRecord, failure: Failure, now: datetime) -> StageRecord:
    """Return the record of a stage of which it could not be looked up what it came to."""
    return replace(
        record,
        state=State.UNKNOWN,
        failures=record.failures + 1,
        reason=failure.reason,
        message=f"what became of it could not be looked up: {failure.message}"[:1024],
        hint=failure.hint,
        next_attempt=to_text(now + timedelta(seconds=LATER.delay(record.failures))),
    )


def _with_failure(record: StageRecord, job: ObservedJob, failure: Failure, now: datetime) -> StageRecord:
    began = job.started or record.started
    return replace(
        record,
        elapsed=record.elapsed + seconds_between(began, job.finished or to_text(now)),
        started=began,
        finished=job.finished,
        reason=failure.reason,
        message=failure.message,
        hint=failure.hint,
        log_tail=job.log_tail,
        exit_code=int(failure.code),
    )


def out_of_time(record: StageRecord, deadline: int) -> StageRecord:
    """Return the record of a training that has used up the time that it was given."""
    return replace(
        record,
        state=State.FAILED,
        reason=OUT_OF_TIME.name,
        message=f"the training has taken the {deadline} s that `activeDeadlineSeconds` allows.",
        hint=OUT_OF_TIME.hint,
    )


def grace_seconds(save_seconds: int) -> int:
    """Return how long a training gets to end in order, from the longest time that a step and a checkpoint took."""
    if not save_seconds:
        return DEFAULT_GRACE
    return min(max(_SHORTEST_GRACE, 2 * save_seconds + 30), _MOST)
