"""Jobs that cannot work, or not yet: each says why, and no GPU is asked for in vain."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

from e2e.cluster.jobs import small_job
from support.chart import CHART
from support.installed import IMAGES, RELEASE, Installed, Team, own, until, volume_of


def test_a_wrong_column_stalls_within_half_a_minute(inputs: Team) -> None:
    """File, row and reason are in the condition, and no training Job was ever created."""
    # A machine that was busy with something else gets a second try.
    assert seconds_to_stall(inputs, "wrong-column") < 30 or seconds_to_stall(inputs, "wrong-column-again") < 30
    status, reason, message = inputs.ready("wrong-column")
    assert (status, reason) == ("False", "MissingColumn")
    assert "faq.json" in message
    assert "answr" in message
    assert "row" in message
    assert "train" not in inputs.stages("wrong-column")


def seconds_to_stall(team: Team, name: str) -> float:
    job = small_job(name)
    job["spec"]["datasets"][0]["columns"] = {"prompt": "question", "response": "answr"}
    began = time.monotonic()
    team.apply(job)
    until(lambda: team.stalled(name), 300, lambda: f"never stalled: {team.ready(name)}")
    return time.monotonic() - began


def test_a_gpu_that_is_not_there_is_waited_for(inputs: Team) -> None:
    """The scheduler's own words stand in the condition; once a node has a GPU, the Pod is scheduled."""
    job = small_job("wants-gpu")
    job["spec"]["training"] |= {"gpusPerNode": 1, "precision": "BF16"}
    job["spec"]["training"].pop("processesPerNode")
    inputs.apply(job)
    message = inputs.wait_for("wants-gpu", "Unschedulable", timeout=600)
    assert "Insufficient nvidia.com/gpu" in message
    assert not inputs.stalled("wants-gpu")
    node = inputs.cluster.get("nodes")["items"][0]["metadata"]["name"]
    try:
        set_gpus(inputs, node, 1)
        until(lambda: scheduled(inputs, "wants-gpu"), 300, lambda: f"not scheduled: {inputs.ready('wants-gpu')}")
    finally:
        inputs.delete("wants-gpu")
        set_gpus(inputs, node, 0)


def set_gpus(team: Team, node: str, count: int) -> None:
    gpus = {"nvidia.com/gpu": str(count)}
    patch = {"status": {"capacity": gpus, "allocatable": gpus}}
    team.cluster.kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={json.dumps(patch)}")


def scheduled(team: Team, name: str) -> bool:
    return any(pod["spec"].get("nodeName") for pod in team.pods(name, "train"))


def test_a_missing_claim_is_waited_for_and_clears_itself(inputs: Team) -> None:
    """Without the claim the job waits and names it; when the claim comes, the job goes on by itself."""
    job = small_job("no-claim")
    job["spec"]["storage"] = {"claimName": "later"}
    job["spec"]["dryRun"] = True
    inputs.apply(job)
    assert "later" in inputs.wait_for("no-claim", "VolumeClaimNotFound", timeout=300)
    root = inputs.volume.parent / "later"
    shutil.copytree(inputs.volume / "models", root / "models")
    shutil.copytree(inputs.volume / "data", root / "data")
    own(root)
    claim = volume_of(inputs.namespace, "later", root)
    claim[0]["metadata"]["name"] = claim[1]["spec"]["volumeName"] = f"{inputs.namespace}-volume-later"
    inputs.cluster.kubectl("apply", "--filename=-", objects=claim)
    try:
        inputs.wait_for("no-claim", "DryRunSucceeded", timeout=600)
        assert inputs.stages("no-claim") == ["fetch", "prepare", "rehearse"]
    finally:
        inputs.delete("no-claim")
        inputs.cluster.kubectl("delete", "pvc", "later", "--namespace", inputs.namespace)
        inputs.cluster.kubectl("delete", "pv", f"{inputs.namespace}-volume-later")


def test_a_volume_that_the_pods_user_cannot_write(inputs: Team) -> None:
    """The failure names the user and the field that sets it."""
    job = small_job("read-only")
    job["spec"]["storage"] = {"runAsUser": 4711, "runAsGroup": 4711}
    inputs.apply(job)
    until(lambda: inputs.stalled("read-only"), 300, lambda: f"never stalled: {inputs.ready('read-only')}")
    _, reason, message = inputs.ready("read-only")
    assert reason == "VolumeNotWritable"
    assert "4711" in message
    assert "runAsUser" in message


def test_a_model_name_that_another_job_has(inputs: Team) -> None:
    """Of two jobs for one model name the younger one says so, and starts nothing."""
    inputs.apply(dry(small_job("first")))
    time.sleep(1.1)  # creation times have whole seconds
    inputs.apply(dry(small_job("second", model="first:v1")))
    until(lambda: inputs.stalled("second"), 120, lambda: f"never stalled: {inputs.ready('second')}")
    assert inputs.ready("second")[1] == "ModelNameTaken"
    assert inputs.jobs("second") == []
    inputs.delete("first")
    # The operator hears of it a moment later; until then the job stands as it was.
    until(lambda: not inputs.stalled("second"), 120, lambda: f"still stalled: {inputs.ready('second')}")
    inputs.wait_for("second", "DryRunSucceeded", timeout=600)


def test_an_image_that_cannot_be_pulled_is_mended_by_an_upgrade(inputs: Team, installed: Installed) -> None:
    """The job waits and names the image; with the right one in the chart's values it goes on by itself."""
    tag = IMAGES[1].rpartition(":")[2]
    try:
        set_stages_tag(installed, "nowhere")
        inputs.apply(dry(small_job("no-image")))
        assert "tunesmith-stages:nowhere" in inputs.wait_for("no-image", "ImagePullBackOff", timeout=300)
        assert not inputs.stalled("no-image")
    finally:
        set_stages_tag(installed, tag)
    inputs.wait_for("no-image", "DryRunSucceeded", timeout=600)


def set_stages_tag(installed: Installed, tag: str) -> None:
    change = ("--reuse-values", "--set", f"image.stages.tag={tag}", "--wait")
    installed.helm.must("upgrade", "tunesmith", CHART, "--namespace", RELEASE, *change)


def dry(job: dict[str, Any]) -> dict[str, Any]:
    job["spec"]["dryRun"] = True
    return job


def test_a_server_that_nobody_defined(inputs: Team) -> None:
    """The condition lists the servers that there are."""
    inputs.apply(small_job("elsewhere", servers=["gpu-box"]))
    until(lambda: inputs.stalled("elsewhere"), 120, lambda: f"never stalled: {inputs.ready('elsewhere')}")
    _, reason, message = inputs.ready("elsewhere")
    assert reason == "ServerNotAllowed"
    assert "main" in message
    assert inputs.jobs("elsewhere") == []


def test_a_quota_is_waited_for_and_clears_itself(quota: Team) -> None:
    """A Pod that the quota refuses: QuotaExceeded with the quota's words; when it is raised, the job goes on."""
    limits = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": quota.namespace}}
    quota.cluster.kubectl("apply", "--filename=-", objects={**limits, "spec": {"hard": {"pods": "0"}}})
    quota.apply(dry(small_job("over-quota")))
    assert "small" in quota.wait_for("over-quota", "QuotaExceeded", timeout=300)
    quota.cluster.kubectl("delete", "resourcequota", "small", "--namespace", quota.namespace)
    quota.wait_for("over-quota", "DryRunSucceeded", timeout=600)
