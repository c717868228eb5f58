"""Carries a job out on this machine: plan, run the next stage as a process, plan again, until nothing is left."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.core.model import Plan, PlannedStage, StageState
from tunesmith.core.plan import plan
from tunesmith.local.lock import hold
from tunesmith.local.process import run_stage
from tunesmith.local.served import still_served
from tunesmith_stages.contract import StageConfig, StageName, StageResult, digest_of
from tunesmith_stages.volume import UnsafePathError, Volume, files_below, write_whole


class Watcher(Protocol):
    """Is told what happens, to show it."""

    def begins(self, stage: PlannedStage) -> None:
        """`stage` starts to run now."""

    def event(self, stage: StageName, event: Mapping[str, Any]) -> None:
        """The running stage made progress (see ``tunesmith_stages.program.Progress``)."""

    def done(self, stage: PlannedStage, results: list[StageResult], *, cached: bool) -> None:
        """`stage` has all its results; `cached` if it had them before."""

    def note(self, text: str) -> None:
        """Something that people should know."""


def current_plan(job: FineTuneJob, volume: Volume, *, rehearsed: bool = False) -> tuple[Plan, dict[str, StageResult]]:
    """Return what is left to do of a job on this volume, and the results that are there."""
    versions = source_versions(job, volume)
    results: dict[str, StageResult] = {}
    while True:
        current = plan(job, results, source_versions=versions, rehearsed=rehearsed)
        found = {
            unit.key: result
            for stage in current.stages
            for unit in stage.missing
            if (result := volume.result(stage.name, unit.key)) is not None and stage.name is not StageName.REHEARSE
        }
        if not found:
            return current, results
        results.update(found)


def source_versions(job: FineTuneJob, volume: Volume) -> dict[str, str]:
    """Return, by unit of `fetch`, a text that changes when somebody changed the source on the volume.

    It is made from names, sizes and times of change alone, so that it costs nothing for a large model.
    """
    given = {"base": job.spec.model.volume.path}
    given |= {f"dataset:{item.name}": item.volume.path for item in job.spec.datasets if item.volume is not None}
    versions = {}
    for unit, path in given.items():
        try:
            place = volume.resolve(path)
            files = list(files_below(place)) if place.is_dir() else [place]
            stats = [(file.relative_to(place).as_posix(), file.stat()) for file in files]
        except (OSError, UnsafePathError):
            continue  # `fetch` says what is wrong with it
        versions[unit] = digest_of([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])
    return versions


def run_job(
    job: FineTuneJob, text: str, volume: Volume, watcher: Watcher, *, url: str, until: StageName | None = None
) -> Plan:
    """Run what is left of a job, up to the stage `until`; return the plan as it stands then.

    Args:
        job: what is wanted.
        text: its YAML, kept with the run.
        volume: where everything lies.
        watcher: is told what happens.
        url: address of the Ollama server.
        until: the last stage to run; None runs all.

    Raises:
        AlreadyRunningError: another process runs this job.
        StageFailedError: a stage failed.
        KeyboardInterrupt: the user stopped it.
    """
    with hold(volume.run(job.metadata.name)) as lock:
        write_whole(volume.run(job.metadata.name) / "finetunejob.yaml", text)
        _forget_lost_registration(job, volume, watcher, url)
        rehearsed = False
        reported: set[StageName] = set()
        while True:
            current, results = current_plan(job, volume, rehearsed=rehearsed)
            _report(current, results, reported, watcher, until, cached=True)
            _remember(current, volume)
            stage = current.next
            if stage is None or _is_after(stage.name, until):
                return current
            watcher.begins(stage)
            run_stage(_config(job, volume, stage, url), volume, lock, partial(watcher.event, stage.name))
            rehearsed = rehearsed or stage.name is StageName.REHEARSE
            current, results = current_plan(job, volume, rehearsed=rehearsed)
            _report(current, results, reported, watcher, stage.name, cached=False)


def _report(
    current: Plan,
    results: Mapping[str, StageResult],
    reported: set[StageName],
    watcher: Watcher,
    until: StageName | None,
    *,
    cached: bool,
) -> None:
    for stage in current.stages:
        if stage.state is not StageState.DONE or _is_after(stage.name, until):
            return
        if stage.name not in reported:
            reported.add(stage.name)
            watcher.done(stage, [results[unit.key] for unit in stage.units if unit.key in results], cached=cached)


def _is_after(stage: StageName, until: StageName | None) -> bool:
    order = list(StageName)
    return until is not None and order.index(stage) > order.index(until)


def _forget_lost_registration(job: FineTuneJob, volume: Volume, watcher: Watcher, url: str) -> None:
    """Remove the result of `register` if the server no longer has the models: what is served decides."""
    current, results = current_plan(job, volume)
    register = current.stage(StageName.REGISTER)
    if register.state is not StageState.DONE:
        return
    for unit in register.units:
        served = still_served(results[unit.key], url)
        if served is None:
            watcher.note(f"Ollama does not answer at {url}, so it was not looked up whether it still has the model.")
        elif not served:
            watcher.note(f"Ollama at {url} does not have the model as it was registered; it is registered again.")
            shutil.rmtree(volume.unit(StageName.REGISTER, unit.key))


def _config(job: FineTuneJob, volume: Volume, stage: PlannedStage, url: str) -> StageConfig:
    reaches_ollama = stage.name in {StageName.REHEARSE, StageName.REGISTER}
    return StageConfig(
        stage=stage.name,
        job=job.metadata.name,
        volume=str(volume.root),
        attempt=f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}",
        units=stage.missing,
        runtime={**stage.runtime, "server": url} if reaches_ollama else stage.runtime,
    )


def _remember(current: Plan, volume: Volume) -> None:
    """Write which units make up the job, for people and for later clean-ups."""
    keys = {stage.name: {unit.name: unit.key for unit in stage.units} for stage in current.stages}
    write_whole(volume.run(current.job) / "run.json", json.dumps({"job": current.job, "stages": keys}, indent=2) + "\n")
