"""The operator is upgraded while jobs run, and after they ended."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from e2e.cluster.jobs import small_job
from e2e.cluster.test_faults import CHAIN, LONG, steps_done, training_logs
from support.chart import CHART
from support.installed import IMAGES, RELEASE, Installed, Manifest, Team, until
from tunesmith.api.keys import STAGE_LABEL

RAISED = f"{IMAGES[0].rpartition(':')[0]}:raised"
CONTRACT = Path("opt/tunesmith/source/tunesmith_stages/contract.py")
AFTER_TRAIN = CHAIN[CHAIN.index("train") + 1 :]
SECONDS = 120
"""How long the live training takes: twice as long, at least, as until an upgraded operator is at work."""


@pytest.fixture
def raised_image(installed: Installed) -> Iterator[str]:
    """Yield the tag of an operator in which `train` has a higher recipe number: what it made before counts no more."""
    if installed.cluster.ours is None:
        pytest.skip("an image of this test's own is brought to the cluster of `make cluster` alone")
    container = buildah("from", "--pull-never", IMAGES[0])
    try:
        contract = Path(buildah("mount", container)) / CONTRACT
        text = contract.read_text(encoding="utf-8")
        assert text.count("StageName.TRAIN: 1,") == 1
        contract.write_text(text.replace("StageName.TRAIN: 1,", "StageName.TRAIN: 2,"), encoding="utf-8")
        for compiled in (contract.parent / "__pycache__").glob("contract.*"):
            compiled.unlink()  # Python would not compare it with its source
        buildah("umount", container)
        buildah("commit", "--quiet", container, RAISED)
    finally:
        buildah("rm", container)
    installed.cluster.bring([RAISED])
    yield RAISED.rpartition(":")[2]
    buildah("rmi", RAISED)


def buildah(*arguments: str) -> str:
    """Run buildah and return what it prints."""
    return subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_upgraded_while_it_trains(faults: Team, installed: Installed, raised_image: str) -> None:
    """What runs ends as it began and what has ended stays, though the new operator would make both otherwise."""
    faults.apply(small_job("settled", {**LONG, "maxSteps": 20}))
    faults.wait_for("settled", "Succeeded")
    settled = faults.job("settled")
    steps = round(pace(faults, "settled") * SECONDS)
    faults.apply(small_job("live", {**LONG, "maxSteps": steps}))
    pod = faults.wait_running("live", "train")["metadata"]
    until(lambda: steps_done(faults, "live") >= 2, 1200, lambda: "no step was done")
    before = faults.jobs("live")
    try:
        upgrade(installed, f"image.operator.tag={raised_image}", "podDefaults.train.sharedMemory=300Mi")
        after = small_job("after")
        after["spec"]["dryRun"] = True
        faults.apply(after)
        until(lambda: recipe_of_train(faults, "after") == 2, 120, lambda: str(faults.job("after")))
        done = steps_done(faults, "live")
        assert done < steps, f"all {steps} steps were done before the new operator was at work: this proves nothing"
        faults.wait_for("live", "Succeeded")
        assert recipe_of_train(faults, "live") == 1
    finally:
        upgrade(installed, f"image.operator.tag={IMAGES[0].rpartition(':')[2]}", "podDefaults.train.sharedMemory=256Mi")
    assert recipe_of_train(faults, "live") == 1
    assert sorted(faults.stages("live")) == sorted([*(stage_of(job) for job in before), *AFTER_TRAIN])
    assert {uid_of(job) for job in before} <= {uid_of(job) for job in faults.jobs("live")}
    assert [uid_of(item) for item in faults.pods("live", "train")] == [pod["uid"]]
    assert steps_done(faults, "live") == steps
    assert len(training_logs(faults, "live")) == 1
    assert {stage: faults.stage("live", stage)["attempts"] for stage in AFTER_TRAIN} == dict.fromkeys(AFTER_TRAIN, 1)
    train = faults.stage("live", "train")
    assert (train["state"], train["attempts"]) == ("Succeeded", 1)
    assert faults.job("settled")["metadata"]["resourceVersion"] == settled["metadata"]["resourceVersion"]
    for name in ("live", "after", "settled"):
        faults.delete(name)


def pace(team: Team, name: str) -> float:
    """Return how many steps a second the only attempt at a job's training made."""
    (log,) = training_logs(team, name)
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    first, *_, last = (event for event in events if event.get("of") == "steps" and event["done"])
    seconds = (datetime.fromisoformat(last["time"]) - datetime.fromisoformat(first["time"])).total_seconds()
    return float((last["done"] - first["done"]) / seconds)


def stage_of(job: Manifest) -> str:
    return str(job["metadata"]["labels"][STAGE_LABEL])


def uid_of(item: Manifest) -> str:
    return str(item["metadata"]["uid"])


def recipe_of_train(team: Team, name: str) -> int:
    """Return the recipe number of the training by which a job is planned; 0: the operator has not seen it."""
    recipes: dict[str, int] = team.job(name).get("status", {}).get("recipes", {})
    return recipes.get("train", 0)


def upgrade(installed: Installed, *changes: str) -> None:
    """Upgrade the release."""
    settings = [part for change in changes for part in ("--set", change)]
    installed.helm.must("upgrade", "tunesmith", CHART, "--namespace", RELEASE, "--reuse-values", *settings, "--wait")
