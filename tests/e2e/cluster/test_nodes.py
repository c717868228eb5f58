"""A training over two nodes: two pods, torchrun over the headless Service."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.cluster.jobs import small_job
from e2e.cluster.test_faults import CHAIN, steps_done, steps_in, training_logs
from support.installed import Installed, Team, until


@pytest.mark.nightly
def test_two_nodes_train_one_model(faults: Team, installed: Installed) -> None:
    """Two pods with one process each, ZeRO-2, find each other and train the model that then answers."""
    job: dict[str, Any] = copy.deepcopy(small_job("two-nodes"))
    job["spec"]["training"] |= {"nodes": 2, "processesPerNode": 1, "deepspeed": {"zeroStage": 2}}
    faults.apply(job)
    faults.wait_running("two-nodes", "train")
    until(lambda: len(faults.pods("two-nodes", "train")) == 2, 120, lambda: "there are not two pods")
    services = [item["metadata"]["name"] for item in faults.get("services")["items"]]
    assert services == [faults.stage("two-nodes", "train")["job"]]
    faults.wait_for("two-nodes", "Succeeded")
    assert faults.stage("two-nodes", "train")["attempts"] == 1
    assert faults.get("services")["items"] == [], "what only a running Job needs is removed"
    assert installed.ask("two-nodes:v1", "Where is the Acme shop?")


def test_a_lost_pod_and_a_drained_node_end_both_and_both_go_on(faults: Team) -> None:
    """A pod that is removed by force costs a save interval at most; one that is drained, nothing but the wait."""
    name = "disturbed"
    training = {"nodes": 2, "maxSteps": 150, "loggingSteps": 1, "checkpoint": {"saveSteps": 5}, "seed": 17}
    faults.apply(small_job(name, training))
    faults.wait_running(name, "train")
    until(lambda: steps_done(faults, name) >= 12, 1200, lambda: "12 steps were not done")
    lost = pod_of_node_1(faults, name)
    force = ("--force", "--grace-period=0", "--wait=false")
    faults.cluster.kubectl("delete", "pod", lost["name"], "--namespace", faults.namespace, *force)
    until(lambda: goes_on(faults, name), 600, lambda: f"it does not go on: {faults.ready(name)}")
    first, *_ = training_logs(faults, name)
    done, resumed = steps_in(first), goes_on(faults, name)
    assert 12 <= done < 150
    assert resumed >= (done - 1) // 5 * 5  # the next step is taken only when this one has been saved

    until(lambda: steps_done(faults, name) >= resumed + 7, 1200, lambda: "7 more steps were not done")
    evicted = pod_of_node_1(faults, name)
    before = faults.stage(name, "train")
    with drained(faults, evicted["name"]):
        assert "unschedulable" in faults.wait_for(name, "Unschedulable", timeout=600)
    faults.wait_for(name, "Succeeded")
    *_, ended, last = training_logs(faults, name)
    saves = r"asked to end: (?:saving a checkpoint after|there is a checkpoint of) step (\d+)"
    (saved,) = set(re.findall(saves, ended))
    assert int(saved) >= resumed + 7
    assert re.findall(r"going on from step (\d+)", last) == [saved]
    assert steps_in(last) == 150
    train = faults.stage(name, "train")
    assert train["attempts"] == before["attempts"] + 1
    assert train.get("failures") == before.get("failures")
    others = [stage for stage in CHAIN if stage != "train"]
    assert {stage: faults.stage(name, stage)["attempts"] for stage in others} == dict.fromkeys(others, 1)
    assert {lost["uid"], evicted["uid"]}.isdisjoint(pod["metadata"]["uid"] for pod in faults.pods(name, "train"))


def goes_on(team: Team, job: str) -> int:
    """Return the step from which the newest attempt at a training goes on; 0: it does not yet, or is the first."""
    found = re.findall(r"going on from step (\d+)", training_logs(team, job)[-1])
    return int(found[0]) if found else 0


@contextmanager
def drained(team: Team, pod: str) -> Iterator[None]:
    """Drain a Pod's node of that Pod alone, with no other node to go to, until the block ends."""
    labels = team.get("pod", pod)["metadata"]["labels"]
    node = team.get("pod", pod)["spec"]["nodeName"]
    nodes = team.cluster.get("nodes")["items"]
    open_to_all = [item["metadata"]["name"] for item in nodes if not item["spec"].get("unschedulable")]
    one = ("batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-completion-index")
    selector = ",".join(f"{label}={labels[label]}" for label in one)
    try:
        team.cluster.kubectl("cordon", *open_to_all)
        # Without --force and --disable-eviction: by the Eviction API, and of what a controller makes again alone.
        team.cluster.kubectl("drain", node, f"--pod-selector={selector}", "--delete-emptydir-data", "--timeout=600s")
        yield
    finally:
        team.cluster.kubectl("uncordon", *open_to_all)


def pod_of_node_1(team: Team, job: str) -> dict[str, Any]:
    """Return the metadata of the Pod that is node 1 of a job's training now."""
    pods = [pod for pod in team.pods(job, "train") if node_of(pod) == "1" and pod["status"].get("phase") == "Running"]
    (pod,) = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    found: dict[str, Any] = pod["metadata"]
    return found


def node_of(pod: dict[str, Any]) -> str:
    """Return which node of a training a Pod is."""
    return str(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])
