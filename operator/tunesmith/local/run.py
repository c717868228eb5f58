"""Carries a job out on this machine: plan, run the next stage as a process, plan again, until nothing is left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.core.model import Plan, PlannedStage, StageState
from tunesmith.core.plan import plan, source_specs
from tunesmith.local.gpus import gpu_memory, require_gpus
from tunesmith.local.lock import AlreadyRunningError, Lock, hold
from tunesmith.local.process import run_stage
from tunesmith.local.served import still_served
from tunesmith.local.sources import (
    RUN_FILE,
    ConfigMaps,
    found_versions,
    named_folders,
    source_runtime,
    source_versions,
)
from tunesmith.local.tracking import tracker_runtime, tracker_url
from tunesmith_stages.contract import StageConfig, StageName, StageResult, digest_of
from tunesmith_stages.volume import Volume, write_whole


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


def current_plan(
    job: FineTuneJob, volume: Volume, *, versions: Mapping[str, str] | None = None, rehearsed: bool = False
) -> tuple[Plan, dict[str, StageResult]]:
    """Return what is left to do of a job on this volume, and the results that are there.

    `versions` are those of the sources, looked up now if they are not given.
    """
    versions = source_versions(job, volume) if versions is None else versions
    current = _planned(job, versions, volume.result, rehearsed=rehearsed)
    if current[0].next is None:
        return current
    # What a clean-up has taken away counts as made as long as nothing is to be made of it.
    complete = _planned(job, versions, partial(_as_known, volume), rehearsed=rehearsed)
    return complete if complete[0].next is None else current


def _as_known(volume: Volume, stage: StageName, key: str) -> StageResult | None:
    return volume.result(stage, key) or volume.cleared(stage, key)


def _planned(
    job: FineTuneJob,
    versions: Mapping[str, str],
    find: Callable[[StageName, str], StageResult | None],
    *,
    rehearsed: bool,
) -> tuple[Plan, dict[str, StageResult]]:
    results: dict[str, StageResult] = {}
    while True:
        current = plan(job, results, source_versions=versions, rehearsed=rehearsed)
        found = {
            unit.key: result
            for stage in current.stages
            for unit in stage.missing
            if (result := find(stage.name, unit.key)) is not None and stage.name is not StageName.REHEARSE
        }
        if not found:
            return current, results
        results.update(found)


def run_job(
    job: FineTuneJob,
    text: str,
    volume: Volume,
    watcher: Watcher,
    *,
    url: str,
    until: StageName | None = None,
    refresh: bool = False,
    config_maps: ConfigMaps | None = None,
) -> Plan:
    """Run what is left of a job, up to the stage `until`; return the plan as it stands then.

    Args:
        job: what is wanted.
        text: its YAML, kept with the run.
        volume: where everything lies.
        watcher: is told what happens.
        url: address of the Ollama server.
        until: the last stage to run; None runs all.
        refresh: look up again what was looked up once: the newest commit of a branch, what another job trained.
        config_maps: those in the job's file.

    Raises:
        AlreadyRunningError: another process runs this job.
        ConfigMapMissingError: a dataset is in a ConfigMap that is not there.
        StageFailedError: a stage failed.
        TrackerNotSetUpError: the job has a tracker whose address is not known.
        KeyboardInterrupt: the user stopped it.
    """
    folder = volume.run(job.metadata.name)
    with hold(folder / "lock.json") as run_lock:
        write_whole(folder / "finetunejob.yaml", text)
        # A source that changes from now on is looked at in the next run.
        folders = named_folders(job, volume)
        versions = source_versions(job, volume, config_maps=config_maps, refresh=refresh)
        fetching = source_runtime(job, volume, config_maps or {})
        if not _is_after(StageName.REGISTER, until):
            _forget_outdated_registration(job, volume, versions, watcher, url)
        rehearsed = False
        reported: set[StageName] = set()
        while True:
            current, results = current_plan(job, volume, versions=versions, rehearsed=rehearsed)
            _report(current, results, reported, watcher, until, cached=True)
            _remember(job, current, versions, folders, volume)
            stage = current.next
            if stage is None or _is_after(stage.name, until):
                return current
            if current.stage(StageName.TRAIN).state is not StageState.DONE and not _is_after(StageName.REHEARSE, until):
                require_gpus(job.spec.training.gpus_per_node, os.environ)
                tracker_url(job, os.environ)  # refused before anything is done for it
            with ExitStack() as held:
                waited, locks = _hold_units(stage, volume, watcher, held)
                if waited:
                    continue  # the other one may have made it
                watcher.begins(stage)
                if stage.runtime.get("method") == "Exec":
                    watcher.note("`ollama.method` is Exec; here there is no pod, so it is done by the API.")
                config = _config(job, volume, stage, url, fetching)
                report = run_stage(config, volume, [run_lock, *locks], partial(watcher.event, stage.name))
            if stage.name is StageName.FETCH:
                versions |= found_versions(config, report)
            rehearsed = rehearsed or stage.name is StageName.REHEARSE
            current, results = current_plan(job, volume, versions=versions, rehearsed=rehearsed)
            _report(current, results, reported, watcher, stage.name, cached=False)


def _hold_units(stage: PlannedStage, volume: Volume, watcher: Watcher, held: ExitStack) -> tuple[bool, list[Lock]]:
    """Hold the locks of everything that a stage is to make until `held` ends; say whether that took waiting."""
    waited = False

    def told(error: AlreadyRunningError) -> None:
        nonlocal waited
        waited = True
        watcher.note(f"{stage.name} waits: process {error.pid} makes the same for another job.")

    # In one order, or two jobs could wait for each other; each once, though two datasets may have the same source.
    keys = sorted({unit.key for unit in stage.missing})
    locks = [held.enter_context(hold(volume.unit_lock(stage.name, key), told)) for key in keys]
    return waited, locks


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
        if stage.units and stage.name not in reported:  # what a GGUF does not need has none
            reported.add(stage.name)
            watcher.done(stage, [results[unit.key] for unit in stage.units if unit.key in results], cached=cached)


def _is_after(stage: StageName, until: StageName | None) -> bool:
    order = list(StageName)
    return until is not None and order.index(stage) > order.index(until)


def _forget_outdated_registration(
    job: FineTuneJob, volume: Volume, versions: Mapping[str, str], watcher: Watcher, url: str
) -> None:
    """Remove the result of `register` if it no longer tells the truth.

    What is served decides: somebody may have removed or replaced the model. And the smoke tests, which enter no key,
    must be those that the model has passed.
    """
    current, results = current_plan(job, volume, versions=versions)
    register = current.stage(StageName.REGISTER)
    if register.state is not StageState.DONE:
        return
    for unit in register.units:
        result = results[unit.key]
        served = still_served(result, url)
        if result.outputs.get("smokeTests") != digest_of(register.runtime["smokeTests"]):
            watcher.note("The smoke tests are not those that the model has passed; it is registered again.")
        elif served is None:
            watcher.note(f"Ollama does not answer at {url}, so it was not looked up whether it still has the model.")
            continue
        elif served:
            continue
        else:
            watcher.note(f"Ollama at {url} does not have the model as it was registered; it is registered again.")
        volume.forget(StageName.REGISTER, unit.key)


def _config(
    job: FineTuneJob, volume: Volume, stage: PlannedStage, url: str, fetching: Mapping[str, Any]
) -> StageConfig:
    return StageConfig(
        stage=stage.name,
        job=job.metadata.name,
        volume=str(volume.root),
        attempt=f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}",
        units=stage.missing,
        runtime={
            **stage.runtime,
            **(fetching if stage.name is StageName.FETCH else {}),
            **_servers(stage, url),
            **_one_node(stage),
            **tracker_runtime(job, stage, os.environ),
            **_estimate(stage),
        },
    )


def _one_node(stage: PlannedStage) -> dict[str, Any]:
    """Return how a training that is meant for several nodes runs on one: with the same rows in each step."""
    nodes = stage.runtime.get("nodes", 1)
    if nodes == 1:
        return {}
    return {"nodes": 1, "gradientAccumulationSteps": nodes * stage.runtime["gradientAccumulationSteps"]}


def _estimate(stage: PlannedStage) -> dict[str, Any]:
    """Return what the need of memory is compared with: this machine's GPUs."""
    estimate = stage.runtime.get("estimate")
    return {"estimate": {**estimate, "gpuMemoryBytes": gpu_memory()}} if estimate else {}


def _servers(stage: PlannedStage, url: str) -> dict[str, Any]:
    """Return how a stage reaches Ollama here: whatever server the job names is the one of OLLAMA_HOST, by its API."""
    names = {name for unit in stage.units for name in unit.params.get("servers", [unit.params.get("server")]) if name}
    here = {"url": url, "caBundle": "", "exec": None}
    return {"method": "API", "servers": dict.fromkeys(sorted(names), here)} if names else {}


def _remember(
    job: FineTuneJob, current: Plan, versions: Mapping[str, str], folders: Mapping[str, str], volume: Volume
) -> None:
    """Write which units make up the job, for people and for later clean-ups, and which sources it was made from."""
    keys = {stage.name: {unit.name: unit.key for unit in stage.units} for stage in current.stages}
    record = {
        "job": current.job,
        "stages": keys,
        "sourceVersions": dict(versions),
        "sources": source_specs(job),
        "folders": dict(folders),
    }
    write_whole(volume.run(current.job) / RUN_FILE, json.dumps(record, indent=2) + "\n")
