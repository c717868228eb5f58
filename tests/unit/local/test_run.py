from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.builders import REMOVED, job, job_text, result_on, stage_config
from tunesmith.api.parse import parse_job_file
from tunesmith.core.model import PlannedStage, StageState
from tunesmith.core.plan import _processes, plan, source_specs
from tunesmith.local.gpus import GpuMissingError
from tunesmith.local.lock import hold
from tunesmith.local.process import StageFailedError, run_stage
from tunesmith.local.run import _config, _hold_units, current_plan, run_job
from tunesmith.local.sources import (
    ConfigMapMissingError,
    found_versions,
    named_folders,
    resolved_key,
    source_runtime,
    source_versions,
)
from tunesmith_stages.contract import ExitCode, Report, StageConfig, StageName, StageResult, UnitReport, digest_of
from tunesmith_stages.volume import Volume

NOBODY = "http://127.0.0.1:9"
DATA_ONLY = {"kind": "datasets", "source": {"volume": {"path": "data/faq.json"}}, "refresh": ""}


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """Return a volume with a dataset and a base that is none: enough to fetch the one and to fail at the other."""
    root = tmp_path / "volume"
    (root / "models" / "base").mkdir(parents=True)
    (root / "models" / "base" / "config.json").write_text("{}")
    (root / "data").mkdir()
    (root / "data" / "faq.json").write_text("[]")
    return Volume(root)


# --- which version of a source it is ---------------------------------------------------------------------------------


def test_version_changes_with_time_and_size(volume: Volume) -> None:
    """A source that somebody touched is looked up again; the other keeps its version."""
    faq = volume.root / "data" / "faq.json"
    versions = [source_versions(job(), volume)]
    os.utime(faq, ns=(1, 1))
    versions.append(source_versions(job(), volume))
    faq.write_text("[{}]")
    os.utime(faq, ns=(1, 1))
    versions.append(source_versions(job(), volume))
    assert len({version["dataset:faq"] for version in versions}) == 3
    assert len({version["base"] for version in versions}) == 1
    assert source_versions(job(), volume) == versions[-1]


def test_version_of_a_folder_is_of_all_that_is_in_it(volume: Volume) -> None:
    """A file more, a file less or a file renamed is another version."""
    base = volume.root / "models" / "base"
    seen = {source_versions(job(), volume)["base"]}
    (base / "more.json").write_text("{}")
    seen.add(source_versions(job(), volume)["base"])
    (base / "more.json").rename(base / "other.json")
    seen.add(source_versions(job(), volume)["base"])
    assert len(seen) == 3


def test_version_is_the_same_wherever_the_volume_lies(volume: Volume, tmp_path: Path) -> None:
    """A volume that was moved, times and all, is not fetched from again."""
    before = source_versions(job(), volume)
    volume.root.rename(tmp_path / "moved")
    assert source_versions(job(), Volume(tmp_path / "moved")) == before


def test_source_without_a_version(volume: Volume) -> None:
    """A source that is not there, or that may not be looked at, is left for `fetch` to complain of."""
    shutil.rmtree(volume.root / "models")
    (volume.root / "out").symlink_to("/")
    assert source_versions(job({"spec.datasets.0.volume.path": "out/etc"}), volume) == {}
    assert source_versions(job({"spec.datasets.0.volume.path": "x" * 300}), volume) == {}


def test_source_that_is_gone_keeps_its_version(volume: Volume) -> None:
    """What was made of a source that was removed since is still found."""
    before = source_versions(job(), volume)
    run = volume.run("support-bot")
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"sourceVersions": before, "sources": source_specs(job())}))
    shutil.rmtree(volume.root / "models")
    assert source_versions(job(), volume) == before


HUB = {"spec.model": {"huggingFace": {"repo": "acme/base"}}}


def test_what_was_looked_up_once_stays(volume: Volume) -> None:
    """A branch of a hub is not followed by itself: only another source, or a refresh, is looked up again."""
    run = volume.run("support-bot")
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"sourceVersions": {"base": "c0"}, "sources": source_specs(job(HUB))}))
    other = {"spec.model": {"huggingFace": {"repo": "acme/base", "revision": "v2"}}}
    assert source_versions(job(HUB), volume)["base"] == "c0"
    assert "base" not in source_versions(job(other), volume)
    assert "base" not in source_versions(job(HUB), volume, refresh=True)


def test_versions_that_fetch_found(volume: Volume) -> None:
    """What its report says of a source makes the key under which the result lies."""
    stage = current_plan(job(HUB), volume)[0].stage(StageName.FETCH)
    config = _config(job(HUB), volume, stage, NOBODY, {})
    base, data = config.units
    report = Report(units=(UnitReport(base.key[:16], "0" * 64, 1, version="c" * 64),))
    assert found_versions(config, report) == {"base": "c" * 64}
    planned = plan(job(HUB), {}, source_versions={"base": "c" * 64}).stage(StageName.FETCH).units[0]
    assert resolved_key(base, "c" * 64) == planned.key
    assert resolved_key(data, "") == data.key


OF_A_CONFIG_MAP = {"spec.datasets.0": {"name": "faq", "configMap": {"name": "rows", "key": "faq.json"}}}


def test_config_map_of_the_jobs_own_file(volume: Volume) -> None:
    """On this machine a ConfigMap is one that stands in the job's file; what is not there is named."""
    beside = (
        job_text(OF_A_CONFIG_MAP)
        + """---
apiVersion: v1
kind: ConfigMap
metadata: {name: rows}
data:
  faq.json: '[]'
"""
    )
    read, config_maps = parse_job_file(beside)
    runtime = source_runtime(read, volume, config_maps)
    assert Path(runtime["configMaps"]["dataset:faq"]).read_text() == "[]"
    with pytest.raises(ConfigMapMissingError, match=r"no ConfigMap `rows` with a key `faq\.json`"):
        source_runtime(read, volume, {})


def test_config_map_that_was_edited_is_another_version(volume: Volume) -> None:
    """What a ConfigMap in the job's file holds is looked at in each run, whatever an earlier one found."""
    read = job(OF_A_CONFIG_MAP)
    run = volume.run("support-bot")
    run.mkdir(parents=True)
    before = source_versions(read, volume, config_maps={"rows": {"faq.json": b"[]"}})
    (run / "run.json").write_text(json.dumps({"sourceVersions": before, "sources": source_specs(read)}))
    assert before["dataset:faq"] == hashlib.sha256(b"[]").hexdigest()
    assert source_versions(read, volume) == before
    assert source_versions(read, volume, config_maps={"rows": {"faq.json": b"[1]"}}) != before


def test_entry_of_a_dataset_info_is_looked_up_when_its_folder_changes(volume: Volume) -> None:
    """Where an entry leads to only `fetch` knows; what it found stays while nothing below the folder changes."""
    read = job({"spec.datasets.0": {"name": "faq", "volume": {"path": "."}, "datasetInfo": "faq"}})
    (volume.root / "data" / "dataset_info.json").write_text("{}")
    run = volume.run("support-bot")
    run.mkdir(parents=True)
    found = {"dataset:faq": "f" * 64}
    record = {"sourceVersions": found, "sources": source_specs(read), "folders": named_folders(read, volume)}
    (run / "run.json").write_text(json.dumps(record))
    assert source_versions(read, volume)["dataset:faq"] == "f" * 64
    assert "dataset:faq" not in source_versions(read, volume, refresh=True)
    (volume.root / "data" / "faq.json").write_text("[1]")
    assert "dataset:faq" not in source_versions(read, volume)


# --- the plan as it stands -------------------------------------------------------------------------------------------


def test_results_on_disk_are_found(volume: Volume) -> None:
    """What earlier runs made is found stage by stage, as far as it reaches."""
    for count, name in enumerate((StageName.FETCH, StageName.PREPARE, StageName.TRAIN), start=1):
        current, _ = current_plan(job(), volume)
        for unit in current.stage(name).missing:
            result_on(volume, name, unit.key, {"x": "y"}, unit=unit.name)
        current, results = current_plan(job(), volume)
        assert current.stage(name).state is StageState.DONE
        assert len(results) == count + 1  # fetch has two units
    assert current.stage(StageName.CONVERT).state is StageState.READY


def test_broken_result_on_disk_does_not_count(volume: Volume) -> None:
    """A result whose files were removed is planned again."""
    for _ in range(2):
        current, _ = current_plan(job(), volume)
        for unit in current.stage(StageName.FETCH).missing:
            result_on(volume, StageName.FETCH, unit.key, {"x": "y"}, unit=unit.name)
    current, _ = current_plan(job(), volume)
    unit = current.stage(StageName.FETCH).units[0]
    (volume.unit(StageName.FETCH, unit.key) / "out" / "x").unlink()
    current, _ = current_plan(job(), volume)
    assert current.stage(StageName.FETCH).missing == (unit,)


def test_changed_source_is_fetched_again(volume: Volume) -> None:
    """Of two sources that were there, the one that was changed is to be fetched."""
    for unit in current_plan(job(), volume)[0].stage(StageName.FETCH).missing:
        result_on(volume, StageName.FETCH, unit.key, {"x": "y"}, unit=unit.name)
    (volume.root / "data" / "faq.json").write_text("[{}]")
    current, _ = current_plan(job(), volume)
    assert [unit.name for unit in current.stage(StageName.FETCH).missing] == ["dataset:faq"]


# --- one stage as a process ------------------------------------------------------------------------------------------


def fetch_config(volume: Volume, **source: Any) -> StageConfig:
    return stage_config(volume.root, StageName.FETCH, params={**DATA_ONLY, **source}, unit="dataset:faq")


def large_file(volume: Volume) -> None:
    """Make a file whose copying takes long enough to be interrupted."""
    with (volume.root / "data" / "faq.json").open("wb") as file:
        file.truncate(1 << 30)


def test_stage_runs_as_a_process(volume: Volume) -> None:
    """A real stage program runs, tells its progress and leaves its result and its log."""
    events: list[Mapping[str, Any]] = []
    config = fetch_config(volume)
    with hold(volume.run("support-bot") / "lock.json") as lock:
        run_stage(config, volume, [lock], events.append)
    assert volume.result(StageName.FETCH, config.units[0].key) is not None
    assert events[-1].items() >= {"stage": "fetch", "unit": "dataset:faq", "done": 2, "total": 2, "of": "bytes"}.items()
    assert (volume.run("support-bot") / "logs" / "fetch.1.log").is_file()
    assert StageConfig.from_json((volume.run("support-bot") / "fetch.json").read_text()) == config


def test_failure_of_a_stage_is_told(volume: Volume) -> None:
    """What the program left as its reason arrives, with the log and its last lines."""
    (volume.root / "data" / "faq.json").unlink()
    with hold(volume.run("support-bot") / "lock.json") as lock, pytest.raises(StageFailedError) as caught:
        run_stage(fetch_config(volume), volume, [lock], lambda _: None)
    assert caught.value.stage == "fetch"
    assert caught.value.failure.code is ExitCode.MISSING_INPUT
    assert caught.value.failure.reason == "SourceNotFound"
    assert caught.value.log.name == "fetch.1.log"
    assert any("SourceNotFound: " in line for line in caught.value.tail)


def test_program_that_leaves_no_result(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exit code of 0 without a result is an error, not a reason to start the stage again and again."""
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with hold(volume.run("support-bot") / "lock.json") as lock, pytest.raises(StageFailedError) as caught:
        run_stage(fetch_config(volume), volume, [lock], lambda _: None)
    assert caught.value.failure.code is ExitCode.INTERNAL
    assert "left no result of `dataset:faq`" in caught.value.failure.message


def test_killed_stage_is_told(volume: Volume) -> None:
    """A program that was killed left no reason: it is said what is known, and what it most often means."""
    large_file(volume)

    def kill(_event: Mapping[str, Any]) -> None:
        child = json.loads((volume.run("support-bot") / "lock.json").read_text())["child"]
        os.kill(child["pid"], signal.SIGKILL)

    with hold(volume.run("support-bot") / "lock.json") as lock, pytest.raises(StageFailedError) as caught:
        run_stage(fetch_config(volume), volume, [lock], kill)
    assert caught.value.failure.code is ExitCode.OUT_OF_MEMORY
    assert "signal 9" in caught.value.failure.message
    assert not list((volume.root / "store" / "datasets").iterdir())


def test_interrupted_run_ends_its_stage_in_order(volume: Volume) -> None:
    """Ctrl-C ends the program below, which cleans up behind itself."""
    large_file(volume)

    def interrupt(_event: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    config = fetch_config(volume)
    with hold(volume.run("support-bot") / "lock.json") as lock, pytest.raises(KeyboardInterrupt):
        run_stage(config, volume, [lock], interrupt)
    folder = volume.attempt(StageName.FETCH, config.units[0].key, "1")
    assert json.loads((folder / "failure.json").read_text())["reason"] == "Interrupted"
    assert not (folder / "incoming").exists()


# --- a run -----------------------------------------------------------------------------------------------------------


class Recorder:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begins(self, stage: PlannedStage) -> None:
        self.said.append(f"{stage.name} begins")

    def event(self, stage: StageName, event: Mapping[str, Any]) -> None:
        assert event["stage"] == stage

    def done(self, stage: PlannedStage, results: list[StageResult], *, cached: bool) -> None:
        self.said.append(f"{stage.name} {'cached' if cached else 'done'}, {len(results)}")

    def note(self, text: str) -> None:
        self.said.append(text)


BUILT_IN = {
    "spec.datasets.0": {"name": "faq", "builtin": "SelfCognition", "substitutions": {"name": "T", "author": "A"}}
}


def test_two_datasets_of_one_source(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that two datasets name is fetched once; the run does not wait for itself."""
    stage = current_plan(job({"spec.datasets.+": {"name": "again", "volume": {"path": "data/faq.json"}}}), volume)[
        0
    ].next
    assert stage is not None
    assert len({unit.key for unit in stage.missing}) == len(stage.missing) - 1 == 2
    watcher = Recorder()

    def give_up(text: str) -> None:
        raise AssertionError(text)

    monkeypatch.setattr(watcher, "note", give_up)
    with ExitStack() as held:
        waited, locks = _hold_units(stage, volume, watcher, held)
    assert (waited, len(locks)) == (False, 2)


def test_what_a_gguf_does_not_need_is_not_told_as_done(volume: Volume) -> None:
    """Of a base that is a GGUF nobody is told that it was prepared or trained."""
    (volume.root / "m.gguf").write_bytes(b"GGUF")
    gguf = job({"spec.model": {"gguf": {"path": "m.gguf"}}, "spec.datasets": REMOVED, "spec.training": REMOVED})
    (base,) = current_plan(gguf, volume)[0].stage(StageName.FETCH).units
    result_on(volume, StageName.FETCH, base.key)
    watcher = Recorder()
    run_job(gguf, "its: yaml", volume, watcher, url=NOBODY, until=StageName.REHEARSE)
    assert watcher.said == ["fetch cached, 1"]


def test_second_run_is_cached(volume: Volume) -> None:
    """A run up to `fetch` fetches; the same again does nothing and says so."""
    from support.builders import write_safetensors

    base = volume.root / "models" / "base"
    (base / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (base / "tokenizer.json").write_text("{}")
    write_safetensors(base / "model.safetensors")
    wanted = job(BUILT_IN)
    for said in (["fetch begins", "fetch done, 2"], ["fetch cached, 2"]):
        watcher = Recorder()
        current = run_job(wanted, "its: yaml", volume, watcher, url=NOBODY, until=StageName.FETCH)
        assert watcher.said == said
        assert current.stage(StageName.PREPARE).state is StageState.READY
    run = volume.run("support-bot")
    assert (run / "finetunejob.yaml").read_text() == "its: yaml"
    assert json.loads((run / "run.json").read_text())["stages"]["fetch"] == {
        unit.name: unit.key for unit in current.stage(StageName.FETCH).units
    }
    assert not (run / "lock.json").exists()


def test_a_run_without_its_gpus_begins_nothing(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants more GPUs than there are learns it before data are fetched, and not hours later."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    watcher = Recorder()
    with pytest.raises(GpuMissingError, match="gpusPerNode` is 4, but this machine has no GPU"):
        run_job(job({"spec.training.gpusPerNode": 4}), "its: yaml", volume, watcher, url=NOBODY)
    assert not watcher.said


def test_failed_run_gives_its_lock_back(volume: Volume) -> None:
    """After a failure the same command can be given again at once."""
    for _ in range(2):
        with pytest.raises(StageFailedError) as caught:
            run_job(job(), job_text(), volume, Recorder(), url=NOBODY)
        assert caught.value.failure.reason in {"NotAModel", "TokenizerMissing"}
    assert not (volume.run("support-bot") / "lock.json").exists()


def _pass_no_smoke_tests(result: Path) -> None:
    content = json.loads(result.read_text())
    content["outputs"] = {"models": {}, "smokeTests": digest_of([])}
    result.write_text(json.dumps(content))


def test_lost_registration_is_forgotten_only_if_the_server_says_so(volume: Volume) -> None:
    """What is served decides; a server that does not answer decides nothing."""
    while (stage := current_plan(job(), volume, rehearsed=True)[0].next) is not None:
        for unit in stage.missing:
            result_on(volume, stage.name, unit.key, {"x": "y"}, unit=unit.name)
            _pass_no_smoke_tests(volume.unit(stage.name, unit.key) / "result.json")
    watcher = Recorder()
    assert run_job(job(), job_text(), volume, watcher, url=NOBODY).next is None
    assert "Ollama does not answer at http://127.0.0.1:9" in watcher.said[0]
    assert watcher.said[1:] == [
        f"{name} cached, {2 if name == 'fetch' else 1 if name != 'rehearse' else 0}" for name in StageName
    ]


def test_errors_of_the_volume_are_not_hidden(volume: Volume) -> None:
    """If the run cannot even write its notes, that is what is raised."""
    (volume.root / "runs").write_text("in the way")
    with pytest.raises(OSError, match="runs") as caught:
        run_job(job(), job_text(), volume, Recorder(), url=NOBODY)
    assert caught.value.errno in {errno.ENOTDIR, errno.EEXIST}


def test_training_for_several_nodes_keeps_its_batch_on_one() -> None:
    """What two nodes take in at a step, one takes in with twice the passes: the same key, the same training."""
    two = job({"spec.training": {"nodes": 2, "gpusPerNode": 0, "gradientAccumulationSteps": 4}})
    stage = PlannedStage(StageName.TRAIN, StageState.READY, runtime=_processes(two))
    runtime = _config(two, Volume(Path("/nowhere")), stage, NOBODY, {}).runtime
    made = runtime["nodes"] * runtime["processesPerNode"] * runtime["perDeviceTrainBatchSize"]
    assert runtime["nodes"] == 1
    assert made * runtime["gradientAccumulationSteps"] == two.spec.training.global_batch_size
