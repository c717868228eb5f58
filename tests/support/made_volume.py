"""Volumes on which jobs were carried out, with everything in its place and a few bytes in each file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.builders import job_data
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.core.model import Plan
from tunesmith.core.plan import plan
from tunesmith.core.record import StageRecord, UnitRecord, write_record
from tunesmith_stages.contract import (
    RECIPES,
    FileEntry,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
    digest_of,
)
from tunesmith_stages.report.attempt import Attempt, keep_attempt
from tunesmith_stages.volume import Volume, publish

LONG_AGO = 1_700_000_000.0
"""When everything was used last on a volume that is `aged`."""

_ORDER = list(StageName)


def carried_out_on(volume: Volume, job: FineTuneJob, until: StageName = StageName.REGISTER) -> Plan:
    """Make what is missing of a job, up to a stage; return the plan as it stands then."""
    while True:
        current, _ = planned_on(volume, job)
        stage = current.next
        if stage is None or _ORDER.index(stage.name) > _ORDER.index(until):
            return current
        config = StageConfig(
            stage.name, job.metadata.name, str(volume.root), f"{job.metadata.name}-{stage.name}-1", stage.missing
        )
        for unit in stage.missing:
            _make(volume, config, unit)
        keep_attempt(volume, Attempt(config, started="2026-11-22T10:00:00Z", finished="2026-11-22T10:00:01Z"))
        write_log(volume, job.metadata.name, stage.name, config.attempt)


def planned_on(volume: Volume, job: FineTuneJob) -> tuple[Plan, dict[str, StageResult]]:
    """Return what is left to do of a job on a volume, by the results that are whole, and these results."""
    results: dict[str, StageResult] = {}
    while True:
        current = plan(job, results, rehearsed=True)
        found = {
            unit.key: result
            for stage in current.stages
            for unit in stage.missing
            if (result := volume.result(stage.name, unit.key)) is not None
        }
        if not found:
            return current, results
        results |= found


def _make(volume: Volume, config: StageConfig, unit: UnitConfig) -> None:
    folder = volume.attempt(config.stage, unit.key, config.attempt)
    content = f"what came of {unit.key}\n"
    files = (FileEntry("model.bin", len(content), digest_of(content)),)
    digest = digest_of([unit.key])
    out = folder / "out"
    (folder / "logs").mkdir(parents=True)
    out.mkdir()
    if config.stage is StageName.FETCH:
        kind = unit.params["kind"]
        out = volume.store(kind, digest)
        out.mkdir(parents=True, exist_ok=True)
        manifest = {"digest": digest, "files": [vars(entry) for entry in files]}
        volume.store_manifest(kind, digest).write_text(json.dumps(manifest))
    (out / "model.bin").write_text(content)
    (folder / "stage.json").write_text(config.to_json())
    result = StageResult(
        config.stage,
        unit.name,
        unit.key,
        RECIPES[config.stage],
        digest,
        volume.relative(out if config.stage is StageName.FETCH else volume.unit(config.stage, unit.key) / "out"),
        files,
        finished=f"2026-11-22T10:{len(list(folder.parent.iterdir())):02d}:00Z",
    )
    (folder / "result.json").write_text(result.to_json())
    final = volume.unit(config.stage, unit.key)
    publish(folder, final, lambda: volume.result(config.stage, unit.key) is not None)


def write_log(volume: Volume, job: str, stage: StageName, attempt: str) -> Path:
    """Write a program's log."""
    path = volume.log(job, stage, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("it ran\n")
    return path


def failed_attempt(volume: Volume, job: str, stage: StageName, key: str, attempt: str) -> Path:
    """Leave what an attempt leaves that failed."""
    folder = volume.attempt(stage, key, attempt)
    folder.mkdir(parents=True)
    config = StageConfig(stage, job, str(volume.root), attempt, (UnitConfig(str(stage), key),))
    (folder / "stage.json").write_text(config.to_json())
    return folder


def aged(volume: Volume, when: float = LONG_AGO) -> Volume:
    """Let everything on a volume have been used long ago."""
    for path in (*volume.root.rglob("*"), volume.root):
        os.utime(path, (when, when), follow_symlinks=False)
    return volume


# --- FineTuneJobs as an API server has them --------------------------------------------------------------------------


def applied(changes: Mapping[str, Any] | None = None, *, name: str = "support-bot") -> dict[str, Any]:
    """Return a FineTuneJob that nobody has looked at yet."""
    item = job_data({"metadata.name": name, **(changes or {})})
    return {**item, "metadata": {**item["metadata"], "namespace": "team-a", "uid": f"uid-{name}", "generation": 1}}


def observed(
    item: Mapping[str, Any],
    volume: Volume,
    *,
    succeeded: bool = True,
    running: Mapping[StageName, str] | None = None,
) -> dict[str, Any]:
    """Return the same with the status that the operator would have given it by what is on the volume.

    Args:
        item: the FineTuneJob.
        volume: where its results are.
        succeeded: whether it ended well.
        running: by stage, the Kubernetes Job that is at work.
    """
    job = FineTuneJob.model_validate({**item, "metadata": {"name": item["metadata"]["name"]}})
    current, results = planned_on(volume, job)
    records = []
    for stage in current.stages:
        keys = tuple(unit.key for unit in stage.units)
        units = tuple(
            UnitRecord(unit.name, unit.key, results[unit.key].digest, results[unit.key].bytes)
            for unit in stage.units
            if unit.key in results
        )
        state = "Succeeded" if units and len(units) == len(keys) else "Waiting"
        record = StageRecord(stage.name, keys=keys, units=units)
        written = {**write_record(record), "state": state}
        if stage.name in (running or {}):
            written |= {"state": "Running", "job": (running or {})[stage.name]}
        records.append(written)
    condition = {"type": "Succeeded", "status": "True" if succeeded else "Unknown", "reason": "x", "message": ""}
    status = {"observedGeneration": item["metadata"]["generation"], "stages": records, "conditions": [condition]}
    return {**item, "status": status}
