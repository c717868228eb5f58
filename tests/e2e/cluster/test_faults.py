"""What a cluster does to a job: the operator dies, pods are evicted, objects are deleted."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from e2e.cluster.jobs import small_job
from support.installed import RELEASE, Installed, Team, until

CHAIN = ["fetch", "prepare", "rehearse", "train", "convert", "quantize", "register"]
LONG = {"maxSteps": 4000, "loggingSteps": 1, "checkpoint": {"saveSteps": 5}}
"""A training that only ends because it is stopped."""


@pytest.mark.nightly
def test_an_evicted_training_goes_on_where_it_was(faults: Team) -> None:
    """The Eviction API ends the training's Pod: it saves a checkpoint, and the next one goes on from that step."""
    faults.apply(small_job("evicted", {"maxSteps": 60, "loggingSteps": 1, "checkpoint": {"saveSteps": 1000}}))
    name = faults.wait_running("evicted", "train")["metadata"]["name"]
    until(lambda: steps_done(faults, "evicted") >= 5, 1200, lambda: "no step was done")
    evict(faults, name)
    until(lambda: other_than(faults, "evicted", name), 600, lambda: "no Pod took its place")
    faults.wait_for("evicted", "Succeeded")
    first, second = training_logs(faults, "evicted")
    assert "asked to end: saving a checkpoint after step" in first
    (resumed,) = re.findall(r"going on from step (\d+)", second)
    assert int(resumed) >= 5
    assert "failures" not in faults.stage("evicted", "train")


def training_logs(team: Team, job: str) -> list[str]:
    """Return what the attempts at a job's training have printed so far, the oldest first; of nodes, the first one."""
    logs = (team.volume / "runs" / job / "logs").glob("train.*.log")
    return [path.read_text() for path in sorted(logs, key=age) if ".node-" not in path.name]


def age(path: Path) -> float:
    return path.stat().st_mtime


def steps_done(team: Team, job: str) -> int:
    """Return how many steps the newest attempt at a job's training has done."""
    logs = training_logs(team, job)
    return steps_in(logs[-1]) if logs else 0


def steps_in(log: str) -> int:
    """Return how many steps a training was told to have done, by what it has printed."""
    events = [json.loads(line) for line in log.split("\n")[:-1] if line.startswith("{")]
    return max((event["done"] for event in events if event.get("of") == "steps"), default=0)


def evict(team: Team, pod: str) -> None:
    team.cluster.kubectl(
        "create",
        "--raw",
        f"/api/v1/namespaces/{team.namespace}/pods/{pod}/eviction",
        "--filename=-",
        objects={
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": team.namespace},
        },
    )


def other_than(team: Team, job: str, pod: str) -> bool:
    return any(
        item["metadata"]["name"] != pod and item["status"].get("phase") in {"Running", "Succeeded"}
        for item in team.pods(job, "train")
    )


@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.nightly)])
def test_an_operator_killed_again_and_again_makes_everything_once(
    faults: Team, installed: Installed, kills: int
) -> None:
    """SIGKILL, so many times within one run: one result, no stage twice, nothing left over."""
    job = f"killed-{kills}"
    faults.apply(small_job(job, {"seed": 40 + kills}))
    for number in range(kills):
        name = kill_operator(faults, installed)
        until(lambda dead=name: leads(faults, dead), 300, lambda: "no other operator took over")  # type: ignore[misc]
        if number % 3 == 0:
            time.sleep(4)  # some of them get to do something
    faults.wait_for(job, "Succeeded")
    assert sorted(faults.stages(job)) == sorted(CHAIN)
    assert all(faults.stage(job, stage)["attempts"] == 1 for stage in CHAIN)
    owner = faults.job(job)["metadata"]["uid"]
    for kind in ("jobs", "configmaps", "services"):
        ours = [
            item for item in faults.get(kind)["items"] if "tunesmith.dev/job" in (item["metadata"].get("labels") or {})
        ]
        owners = {item["metadata"]["ownerReferences"][0]["uid"] for item in ours}
        known = {item["metadata"]["uid"] for item in faults.get("finetunejobs")["items"]}
        assert owners <= known, f"{kind} without a FineTuneJob"
        assert owner in owners or kind != "jobs"


def kill_operator(team: Team, installed: Installed) -> str:
    """Kill the operator and return its Pod's name; the Pod goes with it, or its restarts would wait ever longer."""
    name = next(
        str(pod["metadata"]["name"])
        for pod in installed.operator_pods()
        if not pod["metadata"].get("deletionTimestamp")
    )
    processes = [process for process in psutil.process_iter() if is_in(name, process)]
    for process in processes:
        process.kill()
    assert processes or not team.cluster.ours, "the operator's process was not found"
    team.cluster.kubectl("delete", "pod", name, "--namespace", RELEASE, "--force", "--grace-period=0", "--wait=false")
    return name


def is_in(pod: str, process: psutil.Process) -> bool:
    """Tell whether a process of this machine belongs to a Pod."""
    with suppress(psutil.Error):
        return bool(process.environ().get("HOSTNAME") == pod)
    return False


def leads(team: Team, dead: str) -> bool:
    """Tell whether another Pod than the dead one holds the Lease."""
    lease = team.cluster.get("lease", "--namespace", RELEASE)["items"][0]
    return str(lease["spec"]["holderIdentity"]) != dead


def test_deleted_in_the_middle_nothing_is_left(faults: Team) -> None:
    """`kubectl delete` while the training runs: Jobs, Pods and ConfigMaps are gone with the FineTuneJob."""
    faults.apply(small_job("deleted", LONG))
    faults.wait_running("deleted", "train")
    faults.delete("deleted")

    def gone() -> bool:
        selector = "--selector=tunesmith.dev/job=deleted"
        return not faults.get("jobs,pods,configmaps,services", selector)["items"]

    until(gone, 600, lambda: "objects of the deleted job are left")


def test_suspended_and_resumed(faults: Team) -> None:
    """`suspend` stops the training and gives its place back; resumed, it goes on from its checkpoint."""
    job = small_job("paused", {"maxSteps": 100, "loggingSteps": 1, "checkpoint": {"saveSteps": 5}, "seed": 7})
    faults.apply(job)
    faults.wait_running("paused", "train")
    until(lambda: steps_done(faults, "paused") >= 5, 1200, lambda: "no step was done")
    job["spec"]["suspend"] = True
    faults.apply(job)
    faults.wait_for("paused", "Suspended", timeout=600)
    until(lambda: not faults.pods("paused", "train"), 600, lambda: "the training's Pod is still there")
    job["spec"]["suspend"] = False
    faults.apply(job)
    faults.wait_for("paused", "Succeeded")
    first, second = training_logs(faults, "paused")
    (saved,) = set(re.findall(r"asked to end: saving a checkpoint after step (\d+)", first))
    (resumed,) = re.findall(r"going on from step (\d+)", second)
    assert int(resumed) == int(saved) >= 5
    assert steps_in(second) == 100
