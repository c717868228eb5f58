"""`tunesmith render`: what the operator would create, on paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from support.builders import job, job_text
from support.pods import settings
from tunesmith.api.kube_yaml import KubeLoader
from tunesmith.cli.render import render
from tunesmith.core.manifests import child_manifests
from tunesmith.core.manifests.paper import children_on_paper
from tunesmith_stages.contract import ExitCode, StageName

SETTINGS = "stageImage: stages:1\nservers:\n- {name: main, url: 'http://ollama:11434'}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    path = folder / "job.yaml"
    path.write_text(job_text(changes), encoding="utf-8")
    return path


def rendered(*arguments: str | Path, given: str | None = None) -> Result:
    app = typer.Typer()
    app.command()(render)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=given)


def objects(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.stderr
    return list(yaml.load_all(done.stdout, KubeLoader))


def test_same_as_the_operator(file: Path, tmp_path: Path) -> None:
    """What is printed is what the operator's own functions make, with the same settings."""
    given = tmp_path / "settings.yaml"
    given.write_text(SETTINGS, encoding="utf-8")
    children = children_on_paper(job(), "team-a", "stages:1")
    wanted = [manifest for child in children for manifest in child_manifests(child, settings())]
    assert objects(rendered(file, "--settings", given, "--namespace", "team-a")) == wanted
    assert len(wanted) == 2 * len(StageName)


def test_it_says_what_is_made_up(file: Path, tmp_path: Path) -> None:
    """Every document begins with what cannot be known on paper, and with what was not given."""
    given = tmp_path / "settings.yaml"
    given.write_text(SETTINGS, encoding="utf-8")
    without, with_settings = rendered(file).stdout, rendered(file, "--settings", given).stdout
    for text in (without, with_settings):
        assert text.count("---\n# On paper: the digests of earlier stages ") == text.count("apiVersion: v1\nkind: ") + 7
    assert "# No settings were given" in without
    assert "# No settings were given" not in with_settings


def test_one_stage(file: Path) -> None:
    """One stage can be looked at by itself, with the same names as among all."""
    alone, everything = objects(rendered(file, "--stage", "train")), objects(rendered(file))
    assert [item["kind"] for item in alone] == ["ConfigMap", "Job"]
    assert all(item in everything for item in alone)


@pytest.mark.parametrize(
    ("arguments", "changes", "namespace"),
    [
        ([], {}, "default"),
        ([], {"metadata.namespace": "team-b"}, "team-b"),
        (["-n", "team-c"], {"metadata.namespace": "team-b"}, "team-c"),
    ],
    ids=["none", "the job's", "the command line's"],
)
def test_namespace(arguments: list[str], changes: dict[str, str], namespace: str, tmp_path: Path) -> None:
    """The namespace is the command line's, the job's own, or `default`."""
    shown = objects(rendered(written(tmp_path, changes), *arguments))
    assert {item["metadata"]["namespace"] for item in shown} == {namespace}


def test_dry_run(tmp_path: Path) -> None:
    """A dry run has nothing after `rehearse`."""
    shown = objects(rendered(written(tmp_path, {"spec.dryRun": True})))
    stages = [item["metadata"]["labels"]["tunesmith.dev/stage"] for item in shown if item["kind"] == "Job"]
    assert stages == ["fetch", "prepare", "rehearse"]


def test_standard_input() -> None:
    """`-` reads the job from standard input."""
    assert objects(rendered("-", given=job_text()))


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("stageImage: x\nworker: 3\n", ExitCode.BAD_CONFIG, "line 2: `worker` is not a field here"),
        ("stageImage: x\n", ExitCode.BAD_CONFIG, "`spec.ollama.servers[0]` must be a server that the administrator"),
        (None, ExitCode.MISSING_INPUT, "No such file or directory"),
    ],
    ids=["unknown setting", "unknown server", "no file"],
)
def test_refusals(text: str | None, code: ExitCode, told: str, file: Path, tmp_path: Path) -> None:
    """What cannot be rendered ends with its exit code and words, and prints no half of it."""
    given = tmp_path / "settings.yaml"
    if text is not None:
        given.write_text(text, encoding="utf-8")
    done = rendered(file, "--settings", given)
    assert done.exit_code == code
    assert told in done.stderr
    assert done.stdout == ""


def test_invalid_job(tmp_path: Path) -> None:
    """Problems of the job are told with file, line and field."""
    path = written(tmp_path, {"spec.training.seed": -1})
    done = rendered(path)
    assert done.exit_code == ExitCode.BAD_CONFIG
    assert f"✗ {path}: line " in done.stderr
    assert "`spec.training.seed` must be 0 or more, got -1" in done.stderr
