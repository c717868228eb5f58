from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from support.builders import REMOVED, job_text
from tunesmith import __version__
from tunesmith.api.crd import custom_resource_definition
from tunesmith.api.kube_yaml import KubeLoader
from tunesmith.cli.main import app
from tunesmith.local.lock import hold
from tunesmith_stages.contract import ExitCode, StageName


def tunesmith(*arguments: str | Path, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=given)


def written(folder: Path, changes: Mapping[str, Any] | None = None, name: str = "job.yaml") -> Path:
    (folder / name).write_text(job_text(changes))
    return folder / name


# --- validate --------------------------------------------------------------------------------------------------------


def test_good_file(tmp_path: Path) -> None:
    """A good job is named and the exit code is 0."""
    done = tunesmith("validate", written(tmp_path))
    assert done.exit_code == 0
    assert done.stdout.endswith("job.yaml: FineTuneJob support-bot\n")


def test_all_problems_of_all_files(tmp_path: Path) -> None:
    """Every problem is a line of its own with file, line and field; the good files are still named."""
    first = written(tmp_path, {"spec.training.seed": -1, "spec.datasets.0.colums": {}}, "first.yaml")
    second = written(tmp_path, name="second.yaml")
    third = written(tmp_path, {"kind": "Job"}, "third.yaml")
    done = tunesmith("validate", first, second, third)
    assert done.exit_code == ExitCode.BAD_CONFIG
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"✗ {first}: line 13: `spec.datasets[0].colums` is not a field here")
    assert lines[1].startswith(f"✗ {first}: line ")
    assert "`spec.training.seed` must be 0 or more, got -1" in lines[1]
    assert f"✗ {third}: line 2: `kind` must be FineTuneJob, got 'Job'" in lines[2]
    assert str(second) in done.stdout


def test_text_in_brackets_is_shown_as_it_is(tmp_path: Path) -> None:
    """What people wrote is never taken for markup."""
    done = tunesmith("validate", written(tmp_path, {"metadata.name": "[red]x[/red]"}))
    assert "got '[red]x[/red]'" in done.stderr


def test_standard_input() -> None:
    """A dash reads from standard input."""
    assert tunesmith("validate", "-", given=job_text()).exit_code == 0
    assert tunesmith("validate", "-", given="[]").exit_code == ExitCode.BAD_CONFIG


UNREADABLE: dict[str, tuple[bytes | None, ExitCode, str]] = {
    "not there": (None, ExitCode.MISSING_INPUT, "No such file or directory"),
    "not UTF-8": (b"kind: caf\xe9\n", ExitCode.BAD_CONFIG, "is not UTF-8"),
    "empty": (b"", ExitCode.BAD_CONFIG, "the file is empty"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_unreadable_file(tmp_path: Path, command: str, name: str) -> None:
    """A file that cannot be read is named by every command, with the exit code of its class."""
    content, code, words = UNREADABLE[name]
    if content is not None:
        (tmp_path / "job.yaml").write_bytes(content)
    done = tunesmith(command, tmp_path / "job.yaml")
    assert done.exit_code == code
    assert words in done.stderr
    assert str(tmp_path / "job.yaml") in done.stderr


def test_folder_for_a_file(tmp_path: Path) -> None:
    """A folder is no job."""
    done = tunesmith("validate", tmp_path)
    assert done.exit_code == ExitCode.MISSING_INPUT
    assert "Is a directory" in done.stderr


# --- plan ------------------------------------------------------------------------------------------------------------


def test_plan_as_json(tmp_path: Path) -> None:
    """The plan is for programs, too: stages in order, keys as far as they are known, what is done."""
    done = tunesmith("plan", written(tmp_path), "--json")
    assert done.exit_code == 0
    shown = json.loads(done.stdout)
    assert shown["job"] == "support-bot"
    assert [stage["stage"] for stage in shown["stages"]] == [str(name) for name in StageName]
    fetch, prepare, *_ = shown["stages"]
    assert (fetch["state"], prepare["state"], prepare["units"]) == ("ready", "waiting", [])
    assert [unit["name"] for unit in fetch["units"]] == ["base", "dataset:faq"]
    assert all(len(unit["key"]) == 64 and unit["done"] is False for unit in fetch["units"])


def test_plan_as_a_table(tmp_path: Path) -> None:
    """The plan shows each unit with the beginning of its key and what is to be done."""
    key = json.loads(tunesmith("plan", written(tmp_path), "--json").stdout)["stages"][0]["units"][0]["key"]
    done = tunesmith("plan", written(tmp_path))
    (base,) = (line.split() for line in done.stdout.splitlines() if " base " in line)
    assert base == ["fetch", "base", key[:12], "to", "do"]
    assert "waits for what is above" in done.stdout


def test_plan_of_a_gguf(tmp_path: Path) -> None:
    """What a GGUF does not need does not look as if it was still to come."""
    gguf = {"spec.model": {"gguf": {"path": "m.gguf"}}, "spec.datasets": REMOVED, "spec.training": REMOVED}
    lines = tunesmith("plan", written(tmp_path, gguf)).stdout.splitlines()
    said = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in lines}
    assert {said[name] for name in ("prepare", "rehearse", "train", "convert")} == {"not needed"}
    assert said["quantize"] == said["register"] == "waits for what is above"


def test_plan_sees_an_edited_config_map(tmp_path: Path) -> None:
    """A ConfigMap in the job's file has another key as soon as somebody edits it."""
    job = job_text({"spec.datasets.0": {"name": "faq", "configMap": {"name": "rows", "key": "faq.json"}}})
    keys = set()
    for text in ("[]", "[1]"):
        path = tmp_path / "job.yaml"
        path.write_text(f"{job}---\nkind: ConfigMap\nmetadata: {{name: rows}}\ndata: {{faq.json: '{text}'}}\n")
        (fetch, *_) = json.loads(tunesmith("plan", path, "--json").stdout)["stages"]
        keys.add(fetch["units"][1]["key"])
    assert len(keys) == 2


def test_plan_changes_nothing(tmp_path: Path) -> None:
    """Looking leaves no trace on the volume."""
    path = written(tmp_path)
    tunesmith("plan", path)
    assert list(tmp_path.rglob("*")) == [path]


def test_volume_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TUNESMITH_VOLUME names the volume where no option does."""
    (tmp_path / "volume").mkdir()
    monkeypatch.setenv("TUNESMITH_VOLUME", str(tmp_path / "none"))
    assert tunesmith("plan", written(tmp_path)).exit_code == ExitCode.MISSING_INPUT
    assert tunesmith("plan", written(tmp_path), "--volume", tmp_path / "volume").exit_code == 0


# --- run -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "plan"])
def test_missing_volume(tmp_path: Path, command: str) -> None:
    """A volume that is not there is said before anything begins; it is not made by mistake."""
    done = tunesmith(command, written(tmp_path), "--volume", tmp_path / "none")
    assert done.exit_code == ExitCode.MISSING_INPUT
    assert f"The volume {tmp_path / 'none'} is not there." in done.stderr
    assert not (tmp_path / "none").exists()


def test_failure_shows_reason_sentence_hint_and_log(tmp_path: Path) -> None:
    """A failed stage ends the command with the stage's exit code and says what happened and what to do."""
    done = tunesmith("run", written(tmp_path))
    assert done.exit_code == ExitCode.MISSING_INPUT
    reason, sentence, hint, log = done.stderr.splitlines()
    assert reason == "✗ fetch: SourceNotFound"
    assert sentence.strip().startswith("the source `base` is not there: 'models/base'")
    assert hint.strip().startswith("→ Put it there")
    assert Path(log.strip().removeprefix("log: ")).is_file()


def test_run_up_to_a_stage(tmp_path: Path) -> None:
    """Without a terminal each step is a plain line; the second time it is cached. The last line names the report."""
    from support.builders import write_safetensors

    base = tmp_path / "models" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (base / "tokenizer.json").write_text("{}")
    write_safetensors(base / "model.safetensors")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "faq.json").write_text("[]")
    first = tunesmith("run", written(tmp_path), "--until", "fetch")
    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout.splitlines()[0] == "fetch     runs base, dataset:faq"
    assert "fetch     done in" in first.stdout.splitlines()[-2]
    page = tmp_path / "runs" / "support-bot" / "report.html"
    assert first.stdout.splitlines()[-1] == f"report: {page}"
    page.unlink()
    second = tunesmith("run", written(tmp_path), "--until", "Fetch")
    assert second.stdout.startswith("fetch     cached  2 sources")
    assert len(second.stdout.splitlines()) == 2
    assert "Done up to fetch." in page.read_text(encoding="utf-8")


def test_tracker_without_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that cannot be shown as it wants is refused before anything is done, with the variable to set."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    changes = {"spec.training.tracking": {"type": "MLflow"}, "spec.training.gpusPerNode": 0}
    done = tunesmith("run", written(tmp_path, changes))
    assert done.exit_code == ExitCode.BAD_CONFIG
    assert "`spec.training.tracking.type` is MLflow, but MLFLOW_TRACKING_URI is not set" in done.stderr
    assert not (tmp_path / "stages").exists()


def test_job_that_is_being_run(tmp_path: Path) -> None:
    """A second run of the same job at the same time is refused with the first one's number."""
    with hold(tmp_path / "runs" / "support-bot" / "lock.json"):
        done = tunesmith("run", written(tmp_path))
    assert done.exit_code == ExitCode.TEMPORARY
    assert f"the job is being run already, by process {os.getpid()}" in done.stderr


def test_full_or_closed_volume_is_no_traceback(tmp_path: Path) -> None:
    """A volume on which not even the run's notes can be written is said in a sentence."""
    (tmp_path / "locked").mkdir(mode=0o500)
    volume = tmp_path / "locked" if os.geteuid() else Path("/sys")  # where not even root may write
    done = tunesmith("run", written(tmp_path), "--volume", volume)
    assert done.exit_code in {ExitCode.NO_PERMISSION, ExitCode.NO_SPACE}
    assert "The volume cannot be used" in done.stderr


@pytest.mark.parametrize("stage", ["nothing", ""])
def test_unknown_stage(tmp_path: Path, stage: str) -> None:
    """A stage that there is not is refused with those that there are."""
    done = tunesmith("run", written(tmp_path), "--until", stage)
    assert done.exit_code == 2
    assert "quantize" in done.stderr


# --- the rest --------------------------------------------------------------------------------------------------------


def test_crd_reads_back() -> None:
    """The printed CRD is the CRD, read as kubectl reads it."""
    done = tunesmith("crd")
    assert done.exit_code == 0
    assert yaml.load(done.stdout, Loader=KubeLoader) == custom_resource_definition()  # noqa: S506 - a safe loader


def test_version() -> None:
    """The version is that of the package."""
    assert tunesmith("--version").stdout.strip() == __version__


def test_help_names_every_command() -> None:
    """Without a command, or asked for help, the commands are listed."""
    for arguments in ((), ("--help",)):
        shown = tunesmith(*arguments).output
        for command in ("run", "plan", "validate", "crd"):
            assert command in shown


def test_missing_spec_is_one_sentence(tmp_path: Path) -> None:
    """A file without its main part is told so, not ten times what would be in it."""
    done = tunesmith("validate", written(tmp_path, {"spec": REMOVED}))
    assert done.stderr.endswith("job.yaml: line 1: `spec` must be given\n")


def test_suspended_job_is_refused(tmp_path: Path) -> None:
    """`suspend: true` means that nothing is to run, here as on a cluster."""
    done = tunesmith("run", written(tmp_path, {"spec.suspend": True}))
    assert done.exit_code == ExitCode.BAD_CONFIG
    assert "spec.suspend" in done.stderr
