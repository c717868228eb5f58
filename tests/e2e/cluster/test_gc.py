"""The chart's CronJob cleans a team's volume up, and no FineTuneJob trains again for that."""

from __future__ import annotations

import json
from typing import Any

import yaml

from e2e.cluster.jobs import small_job
from support.chart import CHART
from support.installed import RELEASE, Installed, Team, until, values
from tunesmith_stages.contract import StageName
from tunesmith_stages.volume import Volume


def clean_up(team: Team, name: str) -> dict[str, Any]:
    """Start the CronJob now, and return what its pod told at its end."""
    (cron,) = team.get("cronjobs")["items"]
    source = f"--from=cronjob/{cron['metadata']['name']}"
    team.cluster.kubectl("create", "job", name, source, "--namespace", team.namespace)
    return end_of(team, name)


def clean_up_as_shipped(team: Team, installed: Installed, name: str, **gc: Any) -> dict[str, Any]:
    """Start once what the CronJob is with the chart's own settings but for `gc`; return what its pod told."""
    changed = {**values([team.namespace]), "gc": {"volumes": [{"namespace": team.namespace}], **gc}}
    chosen = ("template", "tunesmith", CHART, "--namespace", RELEASE, "--show-only", "templates/gc.yaml")
    rendered = yaml.safe_load_all(installed.helm.must(*chosen, values=changed))
    (cron,) = (item for item in rendered if item["kind"] == "CronJob")
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": team.namespace},
        "spec": cron["spec"]["jobTemplate"]["spec"],
    }
    team.cluster.kubectl("create", "--filename=-", objects=job)
    return end_of(team, name)


def end_of(team: Team, name: str) -> dict[str, Any]:
    """Wait until the pod of a clean-up has ended, and return what it told."""

    def ended() -> dict[str, Any] | None:
        pods = team.get("pods", "--selector", f"job-name={name}")["items"]
        statuses = [status for pod in pods for status in pod["status"].get("containerStatuses", ())]
        return next((dict(one["state"]["terminated"]) for one in statuses if "terminated" in one["state"]), None)

    end = until(ended, 600, lambda: f"{name} did not end: {team.get('pods', '--selector', f'job-name={name}')}")
    log = team.cluster.kubectl("logs", f"job/{name}", "--namespace", team.namespace)
    assert end["exitCode"] == 0, log
    told: dict[str, Any] = json.loads(end["message"])
    return told


def keys_of(team: Team, name: str, stage: StageName) -> set[str]:
    """Return the keys of a stage's results, by the status."""
    return {unit["key"] for unit in team.stage(name, stage).get("units", ())}


def test_a_volume_is_cleaned_up(collected: Team, installed: Installed) -> None:
    """Intermediates go once they are registered, data of deleted jobs at the next clean-up; nothing is trained again.

    What another job shares with a deleted one stays, and so does what people put on the volume.
    """
    team, volume = collected, Volume(collected.volume)
    before = {path for name in ("data", "models") for path in (volume.root / name).rglob("*")}
    team.apply(small_job("keeps"))
    team.wait_for("keeps", "Succeeded")
    team.apply(small_job("goes"))  # it shares all but its registration
    team.wait_for("goes", "Succeeded")
    (convert,) = keys_of(team, "keeps", StageName.CONVERT)

    told = clean_up_as_shipped(team, installed, "gc-dry-run", grace="0s")
    assert told["dryRun"]
    assert told["uselessBytes"] > 0
    assert told["removed"] == 0
    told = clean_up_as_shipped(team, installed, "gc-grace", dryRun=False)
    assert not told["dryRun"]
    assert told["keptBytes"] > told["uselessBytes"] == 0
    assert volume.result(StageName.CONVERT, convert) is not None

    told = clean_up(team, "gc-registered")
    assert told["freedBytes"] > 0
    assert volume.result(StageName.CONVERT, convert) is None
    assert volume.cleared(StageName.CONVERT, convert) is not None

    trained = keys_of(team, "keeps", StageName.TRAIN)
    more = small_job("keeps")
    more["spec"]["export"]["quantizations"] = ["Q8_0", "F16"]
    team.apply(more)
    until(
        lambda: len(keys_of(team, "keeps", StageName.QUANTIZE)) == 2 and team.ready("keeps")[1] == "Succeeded",
        1200,
        lambda: f"the further type was not made: {team.ready('keeps')}",
    )
    assert keys_of(team, "keeps", StageName.TRAIN) == trained
    assert len(team.jobs("keeps", StageName.TRAIN)) == 1
    assert "keeps:v1-f16" in installed.models()

    registered = keys_of(team, "goes", StageName.REGISTER)
    team.delete("goes")
    clean_up(team, "gc-deleted")
    assert not volume.run("goes").exists()
    assert [key for key in registered if volume.unit(StageName.REGISTER, key).exists()] == []
    for stage in (StageName.FETCH, StageName.PREPARE, StageName.TRAIN, StageName.QUANTIZE, StageName.REGISTER):
        units = keys_of(team, "keeps", stage)
        assert units
        assert [key for key in units if volume.result(stage, key) is None] == [], stage
    assert volume.logs("keeps").is_dir()

    team.delete("keeps")
    assert clean_up(team, "gc-all")["keptBytes"] == 0
    left = [path for name in ("store", "stages", "runs") for path in (volume.root / name).glob("*/*") if path.is_dir()]
    assert left == []
    assert {path for name in ("data", "models") for path in (volume.root / name).rglob("*")} == before
