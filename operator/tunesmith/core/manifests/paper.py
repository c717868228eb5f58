"""Every stage of a FineTuneJob on paper: what the operator would create, one after the other, if nothing were done yet.

What a stage made is known by its digest once it is made. On paper each digest is a made-up one, which depends on the
stage and the unit's name alone; so do keys that are made from it, and names that are made from keys.
"""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.core.manifests.child import Child
from tunesmith.core.plan import later_units, plan, source_kinds
from tunesmith.core.record import UnitRecord, as_result
from tunesmith_stages.contract import Input, StageName, StageResult, UnitConfig, digest_of

UID_ON_PAPER = "00000000-0000-0000-0000-000000000000"


def children_on_paper(job: FineTuneJob, namespace: str, image: str) -> Iterator[Child]:
    """Yield the first try at every stage of a job, in order; a dry run ends after `rehearse`."""
    results: dict[str, StageResult] = {}
    known: dict[str, Input] = {}
    rehearsed = False
    while not (job.spec.dry_run and rehearsed):
        stage = plan(job, results, rehearsed=rehearsed).next
        if stage is None:
            return
        trains = stage.name is StageName.TRAIN
        child = Child(
            job=job,
            uid=UID_ON_PAPER,
            namespace=namespace,
            stage=stage,
            attempt=1,
            later=later_units(job, stage.name),
            known=dict(known),
            image=image,
            deadline=job.spec.active_deadline_seconds if trains else None,
        )
        yield child
        rehearsed = rehearsed or stage.name is StageName.REHEARSE
        for unit in () if stage.name is StageName.REHEARSE else child.units:
            results[unit.key] = _made_up(job, stage.name, unit)
            known[unit.role] = results[unit.key].as_input()


def _made_up(job: FineTuneJob, stage: StageName, unit: UnitConfig) -> StageResult:
    record = UnitRecord(unit.name, unit.key, digest_of(["on paper", str(stage), unit.name]))
    return as_result(stage, record, source_kinds(job).get(unit.name, ""))
