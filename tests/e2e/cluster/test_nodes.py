"""A training over two nodes: two pods, torchrun over the headless Service."""

from __future__ import annotations

import copy
import re
from typing import Any

from e2e.cluster.jobs import small_job
from e2e.cluster.test_faults import steps_done, steps_in, training_logs
from support.installed import Installed, Team, until


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


def test_a_lost_pod_of_two_costs_a_save_interval_at_most(faults: Team) -> None:
    """The pod of node 1 is removed by force while it trains: both end, and the next two go on from a checkpoint."""
    job = small_job("lost-pod", {"nodes": 2, "maxSteps": 100, "loggingSteps": 1, "checkpoint": {"saveSteps": 5}})
    faults.apply(job)
    faults.wait_running("lost-pod", "train")
    until(lambda: steps_done(faults, "lost-pod") >= 12, 1200, lambda: "12 steps were not done")
    (lost,) = [pod["metadata"] for pod in faults.pods("lost-pod", "train") if node_of(pod) == "1"]
    force = ("--force", "--grace-period=0", "--wait=false")
    faults.cluster.kubectl("delete", "pod", lost["name"], "--namespace", faults.namespace, *force)
    faults.wait_for("lost-pod", "Succeeded")
    first, *_, last = training_logs(faults, "lost-pod")
    done = steps_in(first)
    assert 12 <= done < 100
    (resumed,) = re.findall(r"going on from step (\d+)", last)
    assert int(resumed) >= (done - 1) // 5 * 5  # the next step is taken only when this one has been saved
    assert steps_in(last) == 100
    assert lost["uid"] not in {pod["metadata"]["uid"] for pod in faults.pods("lost-pod", "train")}


def node_of(pod: dict[str, Any]) -> str:
    """Return which node of a training a Pod is."""
    return str(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])
