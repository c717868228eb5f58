"""Which units are taken for a job's: by what programs and the local edge leave, and not those of an earlier version."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.reported import JobOnVolume, prepared, sources, trained, whole_job
from tunesmith_stages.contract import ExitCode, Failure, StageName
from tunesmith_stages.report import gather
from tunesmith_stages.report.facts import Facts, Unit
from tunesmith_stages.report.verdict import verdict_of

FAILURE = Failure(ExitCode.GATE_FAILED, "GateFailed", "it differs", "See the log.")


def facts_of(job: JobOnVolume) -> Facts:
    facts = gather(job.volume, job.job)
    assert facts is not None
    return facts


def names(facts: Facts) -> set[str]:
    return {f"{stage}/{name}" for stage, name in facts.units}


EVERYTHING = {
    *("fetch/base", "fetch/dataset:faq", "prepare/prepare", "rehearse/rehearse", "train/train"),
    *("convert/convert", "quantize/Q4_K_M", "register/main"),
}


def test_job_of_a_cluster(tmp_path: Path) -> None:
    """Nobody but the programs themselves left anything there, and all units are found."""
    job = whole_job(tmp_path / "volume")
    assert names(facts_of(job)) == EVERYTHING


def test_last_attempt_alone_leads_to_everything(tmp_path: Path) -> None:
    """Of a job whose other results were there already only `register` ran; its inputs lead to them all."""
    job = whole_job(tmp_path / "volume")
    for path in (job.volume.run(job.job) / "attempts").iterdir():
        if path.stem != "register":
            path.unlink()
    assert names(facts_of(job)) == EVERYTHING - {"rehearse/rehearse"}


def test_job_for_which_nothing_had_to_run(tmp_path: Path) -> None:
    """The local edge's record of keys is enough, and it is told for which job the work was done."""
    done = whole_job(tmp_path / "volume")
    other = JobOnVolume(tmp_path / "volume", "same-again")
    keys: dict[StageName, dict[str, str]] = {
        stage: {unit.name: unit.config.key for unit in facts_of(done).of(stage)}
        for stage in StageName
        if stage is not StageName.REHEARSE
    }
    other.keep_run(keys)
    facts = facts_of(other)
    assert names(facts) == EVERYTHING - {"rehearse/rehearse"}
    assert {unit.job for unit in facts.units.values()} == {"support-bot"}
    assert verdict_of(facts).word == "Succeeded"


def test_earlier_version_of_a_job_is_left_out(tmp_path: Path) -> None:
    """When `prepare` runs anew for other parameters, what was trained and registered before is the job's no longer."""
    job = whole_job(tmp_path / "volume")
    made = {role: unit.result.as_input() for role, unit in _sources(facts_of(job)).items() if unit.result}
    prepared(job, made, sequenceLength=1024)
    facts = facts_of(job)
    assert names(facts) == {"fetch/base", "fetch/dataset:faq", "prepare/prepare"}
    assert verdict_of(facts).sentence == "Done up to prepare. The stage train has not begun."


def test_new_quantization_makes_the_registration_old(tmp_path: Path) -> None:
    """A model that was registered before a further quantization was made does not count as the job's."""
    job = whole_job(tmp_path / "volume")
    converted = facts_of(job).one(StageName.CONVERT)
    assert converted is not None
    assert converted.result is not None
    job.done(StageName.QUANTIZE, {"type": "Q8_0"}, {"converted": converted.result.as_input()}, unit="Q8_0")
    facts = facts_of(job)
    assert not facts.of(StageName.REGISTER)
    assert verdict_of(facts).word == "Not finished"


def test_gate_that_was_passed_once_may_fail(tmp_path: Path) -> None:
    """A rehearsal that failed after one with the same key had passed is told as failed."""
    job = JobOnVolume(tmp_path / "volume")
    made = sources(job)
    made["prepared"] = prepared(job, made)
    job.done(StageName.REHEARSE, {"model": "m"}, made)
    job.failed(StageName.REHEARSE, FAILURE, {"model": "m"}, made)
    assert verdict_of(facts_of(job)).word == "Failed"


def test_failure_that_was_overcome_is_not_told(tmp_path: Path) -> None:
    """An attempt that failed counts no longer once its unit is there and was worked with."""
    job = JobOnVolume(tmp_path / "volume")
    made = sources(job)
    made["prepared"] = prepared(job, made)
    job.failed(StageName.TRAIN, FAILURE, {"seed": 7, "finetuningType": "LoRA", "learningRate": "1e-4"}, made)
    assert verdict_of(facts_of(job)).word == "Failed"
    trained(job, made)
    verdict = verdict_of(facts_of(job))
    assert verdict.word == "Not finished"
    assert "Done up to train." in verdict.sentence


def test_source_of_several_jobs(tmp_path: Path) -> None:
    """Of two sources with the same content the one that this job fetched is named."""
    other = JobOnVolume(tmp_path / "volume", "other")
    other.done(StageName.FETCH, {"kind": "models", "source": {"volume": {"path": "elsewhere"}}}, unit="base", size=9)
    job = JobOnVolume(tmp_path / "volume", begin=10)
    mine = {"kind": "models", "source": {"volume": {"path": "here"}}}
    made = {"base": job.done(StageName.FETCH, mine, unit="base", size=9)}
    prepared(job, made)
    assert _sources(facts_of(job))["base"].config.params == mine


def test_job_that_is_not_there(tmp_path: Path) -> None:
    """A volume that knows nothing of a job says so."""
    job = whole_job(tmp_path / "volume")
    assert gather(job.volume, "other") is None


def test_result_that_is_lost(tmp_path: Path) -> None:
    """A unit whose files are gone does not count as made."""
    job = whole_job(tmp_path / "volume")
    unit = facts_of(job).one(StageName.CONVERT)
    assert unit is not None
    shutil.rmtree(unit.folder / "out")
    assert "Succeeded" in verdict_of(facts_of(job)).word  # the model is in Ollama
    lost = facts_of(job).one(StageName.CONVERT)
    assert lost is not None
    assert lost.result is None


def test_nothing_outside_of_the_volume_is_read(tmp_path: Path) -> None:
    """A log that is a link to a file elsewhere counts as missing."""
    job = whole_job(tmp_path / "volume")
    unit = facts_of(job).one(StageName.PREPARE)
    assert unit is not None
    secret = tmp_path / "secret.json"
    secret.write_text('{"datasets": {"secret": {"rows": 1}}}')
    report = unit.folder / "logs" / "report.json"
    report.unlink()
    report.symlink_to(secret)
    facts = facts_of(job)
    assert facts.log(unit, "report.json") is None


def _sources(facts: Facts) -> dict[str, Unit]:
    return {unit.name: unit for unit in facts.of(StageName.FETCH)}
