"""The section on what ran, and on why it ended where it did."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith_stages.contract import StageName
from tunesmith_stages.report.blocks import BAD, NOTE, Block, Code, Says, Section, Table
from tunesmith_stages.report.facts import Facts
from tunesmith_stages.report.shown import duration, moment, shown
from tunesmith_stages.report.verdict import FAILED, NOT_BEGUN, STOPPED, state_of


def course(facts: Facts) -> Section:
    """Say how each stage stands, and of one that failed why."""
    rows = [_row(facts, stage) for stage in StageName]
    stages = Table("Stages, in their order", ("stage", "state", "took", "ended"), rows, frozenset({2}))
    return Section("stages", "Stages", (*_failures(facts), stages))


_SIGNS = {"done": "✓ ", "failed": "✗ "}


def _row(facts: Facts, stage: StageName) -> tuple[str, ...]:
    units, state, attempt = facts.of(stage), state_of(facts, stage), facts.attempt(stage)
    results = [unit.result for unit in units if unit.result]
    if state != NOT_BEGUN and len(units) > 1 and len(results) < len(units):
        state = f"{state} ({len(results)} of {len(units)} made)"
    elif results and all(unit.job != facts.job for unit in units):
        state = f"{state}, for the job {shown(units[0].job, 80)}"
    seconds = sum(result.numbers.get("seconds", 0.0) for result in results) if results else None
    ended = max((result.finished for result in results), default=attempt.finished if attempt else "")
    return stage, _SIGNS.get(state.split(maxsplit=1)[0].rstrip(","), "") + state, duration(seconds), moment(ended)


def _failures(facts: Facts) -> Iterator[Block]:
    for attempt in facts.attempts:
        stage, failure = attempt.config.stage, attempt.failure
        state = state_of(facts, stage)
        if failure is None or state not in {FAILED, STOPPED}:
            continue
        tone = BAD if state == FAILED else NOTE
        yield Says(f"{stage} {state}: {shown(failure.reason, 60)}", tone)
        yield Code(f"What {stage} said", shown(failure.message, 6000))
        yield Says(f"What to do: {shown(failure.hint, 1500)}", NOTE)
        log = facts.volume.log(facts.job, stage, attempt.config.attempt)
        if log.is_file():
            yield Says(f"Its log, from the volume's root: {shown(facts.volume.relative(log), 400)}")
