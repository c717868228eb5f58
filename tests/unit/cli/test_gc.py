"""The command line of `tunesmith gc`, on real folders."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from support.builders import job as built
from support.builders import job_text
from support.made_volume import aged, carried_out_on, planned_on
from tunesmith.cli.main import app
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.volume import Volume


def gc(volume: Volume, *arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["gc", "--volume", str(volume.root), *arguments], env={"COLUMNS": "200"})


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    """Return a volume on which a job was carried out by this machine, long ago."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    volume = Volume(tmp_path)
    carried_out_on(volume, built())
    for path in volume.root.rglob("*.json"):  # as `tunesmith run` names its tries
        path.write_text(re.sub(r'"support-bot-[a-z]+-1"', '"20261122T100000000000-77"', path.read_text()))
    keys = {
        stage.name: {unit.name: unit.key for unit in stage.units} for stage in planned_on(volume, built())[0].stages
    }
    (volume.run("support-bot") / "run.json").write_text(json.dumps({"job": "support-bot", "stages": keys}))
    (volume.run("support-bot") / "finetunejob.yaml").write_text(job_text())
    return aged(volume)


def test_shows_first(volume: Volume) -> None:
    """Without --delete it tells what could go and changes nothing."""
    before = sorted(volume.root.rglob("*"))
    result = gc(volume)
    assert result.exit_code == 0, result.output
    assert re.search(r"intermediate\s+stages/convert/[0-9a-f]{12}/out\s+its quantizations are made", result.output)
    assert "Nothing was changed: --delete removes" in result.output
    assert sorted(volume.root.rglob("*")) == before


def test_deletes(volume: Volume) -> None:
    """With --delete it removes what it has shown, and tells how much room that gave."""
    result = gc(volume, "--delete")
    assert result.exit_code == 0, result.output
    assert re.search(r"removed stages/convert/[0-9a-f]{12}/out", result.output)
    assert "freed: 1 thing removed" in result.output
    assert planned_on(volume, built())[0].next.name is StageName.CONVERT  # type: ignore[union-attr]


def test_a_run_that_is_deleted(volume: Volume) -> None:
    """A job of this machine is deleted with its folder in `runs`; then all goes that was made for it."""
    shutil.rmtree(volume.run("support-bot"))
    assert gc(volume, "--delete").exit_code == 0
    assert [path for path in volume.root.rglob("*") if path.is_file()] == []


def test_grace(volume: Volume) -> None:
    """What was used within the grace time stays."""
    aged(volume, (volume.root / "store").stat().st_ctime)
    assert "There is nothing to remove." in gc(volume, "--grace", "1h").output
    assert "1 thing could be freed" in gc(volume, "--grace", "0s").output


def test_json(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Programs get every thing with its verdict, and a summary that fits a termination message."""
    summary = tmp_path_factory.mktemp("summary") / "s.json"
    result = gc(volume, "--delete", "--json", "--summary", str(summary))
    told = json.loads(result.stdout)
    removed = [thing for thing in told["things"] if thing["removed"]]
    assert [thing["kind"] for thing in removed] == ["intermediate"]
    assert told["freedBytes"] == removed[0]["bytes"] > 0
    assert json.loads(summary.read_text()) == {
        name: told[name]
        for name in ("dryRun", "complete", "uselessBytes", "freedBytes", "keptBytes", "removed", "failed")
    }
    assert (told["dryRun"], told["complete"], told["removed"], told["failed"]) == (False, True, 1, 0)


def test_a_cluster_that_was_not_asked(volume: Volume) -> None:
    """What jobs of a cluster have made is not removed without asking it for them, also if their runs are gone."""
    config = next(volume.units(StageName.TRAIN).glob("*/stage.json"))
    config.write_text(config.read_text().replace("20261122T100000000000-77", "bot-train-1234abcd-1-x7k2p"))
    before = sorted(volume.root.rglob("*"))
    result = gc(volume, "--delete")
    assert result.exit_code == ExitCode.BAD_CONFIG
    assert "the cluster was not asked" in result.stderr
    assert sorted(volume.root.rglob("*")) == before


def test_a_cluster_that_does_not_answer(volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a list of the jobs nothing is removed."""
    kubeconfig = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "a", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    shutil.rmtree(volume.root / "runs")
    before = sorted(volume.root.rglob("*"))
    result = gc(volume, "--delete", "--namespace", "team-a")
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "nobody knows what is needed" in result.stderr
    assert sorted(volume.root.rglob("*")) == before


@pytest.mark.parametrize("grace", ["3", "h", "-1h", "1w", "99999999h"])
def test_odd_times(volume: Volume, grace: str) -> None:
    """A time that is none is refused."""
    assert gc(volume, f"--grace={grace}").exit_code == 2
