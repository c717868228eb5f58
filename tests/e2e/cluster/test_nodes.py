"""A training over two nodes: two pods, torchrun over the headless Service."""

from __future__ import annotations

import copy
from typing import Any

from e2e.cluster.jobs import small_job
from support.installed import Installed, Team


def test_two_nodes_train_one_model(faults: Team, installed: Installed) -> None:
    """Two pods with one process each, ZeRO-2, find each other and train the model that then answers."""
    job: dict[str, Any] = copy.deepcopy(small_job("two-nodes"))
    job["spec"]["training"] |= {"nodes": 2, "processesPerNode": 1, "deepspeed": {"zeroStage": 2}}
    faults.apply(job)
    faults.wait_running("two-nodes", "train")
    pods = faults.pods("two-nodes", "train")
    assert len(pods) == 2
    services = [item["metadata"]["name"] for item in faults.get("services")["items"]]
    assert services == [faults.stage("two-nodes", "train")["job"]]
    faults.wait_for("two-nodes", "Succeeded")
    assert faults.stage("two-nodes", "train")["attempts"] == 1
    assert faults.get("services")["items"] == [], "what only a running Job needs is removed"
    assert installed.ask("two-nodes:v1", "Where is the Acme shop?")
