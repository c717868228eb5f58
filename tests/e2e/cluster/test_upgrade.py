"""The operator is upgraded while jobs run, and after they ended."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.jobs import small_job
from e2e.cluster.test_faults import LONG, steps_done
from support.chart import CHART
from support.installed import IMAGES, RELEASE, Installed, Team, until

RAISED = f"{IMAGES[0].rpartition(':')[0]}:raised"
CONTRACT = Path("opt/tunesmith/source/tunesmith_stages/contract.py")


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
    """Neither what runs nor what has ended is made anew, though the new operator would make both otherwise."""
    faults.apply(small_job("settled"))
    faults.wait_for("settled", "Succeeded")
    settled = faults.job("settled")
    faults.apply(small_job("live", LONG))
    pod = faults.wait_running("live", "train")["metadata"]
    until(lambda: steps_done(faults, "live") >= 2, 1200, lambda: "no step was done")
    before = [job["metadata"]["uid"] for job in faults.jobs("live")]
    try:
        upgrade(installed, f"image.operator.tag={raised_image}", "podDefaults.train.sharedMemory=300Mi")
        after = small_job("after")
        after["spec"]["dryRun"] = True
        faults.apply(after)
        until(lambda: recipe_of_train(faults, "after") == 2, 120, lambda: str(faults.job("after")))
        steps = steps_done(faults, "live")
        until(lambda: steps_done(faults, "live") >= steps + 2, 1200, lambda: "it does not go on")
    finally:
        upgrade(installed, f"image.operator.tag={IMAGES[0].rpartition(':')[2]}", "podDefaults.train.sharedMemory=256Mi")
    assert recipe_of_train(faults, "live") == 1
    assert [job["metadata"]["uid"] for job in faults.jobs("live")] == before
    assert [item["metadata"]["uid"] for item in faults.pods("live", "train")] == [pod["uid"]]
    assert faults.stage("live", "train")["attempts"] == 1
    assert faults.job("settled")["metadata"]["resourceVersion"] == settled["metadata"]["resourceVersion"]
    for name in ("live", "after", "settled"):
        faults.delete(name)


def recipe_of_train(team: Team, name: str) -> int:
    """Return the recipe number of the training by which a job is planned; 0: the operator has not seen it."""
    recipes: dict[str, int] = team.job(name).get("status", {}).get("recipes", {})
    return recipes.get("train", 0)


def upgrade(installed: Installed, *changes: str) -> None:
    """Upgrade the release."""
    settings = [part for change in changes for part in ("--set", change)]
    installed.helm.must("upgrade", "tunesmith", CHART, "--namespace", RELEASE, "--reuse-values", *settings, "--wait")
