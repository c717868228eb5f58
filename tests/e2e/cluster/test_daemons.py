"""The programs of the node die below a job, in every stage."""

from __future__ import annotations

import subprocess
from collections import deque
from functools import partial
from itertools import islice

import psutil
import pytest

from e2e.cluster.jobs import small_job
from e2e.cluster.test_faults import CHAIN, training_logs
from support.cluster import NodeCluster
from support.daemons import DAEMONS, held, kill_daemon, stage_programs
from support.installed import Installed, Team, until


@pytest.mark.parametrize("kills", [1, pytest.param(len(DAEMONS), marks=pytest.mark.nightly)])
def test_killed_in_every_stage(faults: Team, installed: Installed, kills: int) -> None:
    """SIGKILL to API server, etcd, kubelet or containerd in each stage, or to all four: each stage is made once."""
    name = f"daemons-{kills}"
    steps = {"maxSteps": 8, "loggingSteps": 1, "checkpoint": {"saveSteps": 3}, "seed": 30 + kills}
    faults.apply(small_job(name, steps))
    order = deque(DAEMONS)
    for stage in CHAIN:
        begun = partial(stage_programs, faults.cluster, name, stage)
        program = until(begun, 900, lambda: state(faults, name), every=0.02)[0]
        with held(program):  # or the shorter ones would have ended by then
            for daemon in islice(order, kills):
                kill_daemon(faults.cluster, daemon)
                assert program.status() == psutil.STATUS_STOPPED, f"{stage} had ended before {daemon} was killed"
        order.rotate()
    until(lambda: serves(faults.cluster), 120, lambda: "the API server did not come back")
    faults.wait_for(name, "Succeeded")
    assert faults.stages(name) == CHAIN
    assert {stage: faults.stage(name, stage)["attempts"] for stage in CHAIN} == dict.fromkeys(CHAIN, 1)
    assert not any("failures" in faults.stage(name, stage) for stage in CHAIN)
    assert len(training_logs(faults, name)) == 1
    owners = {item["metadata"]["ownerReferences"][0]["uid"] for item in faults.get("jobs")["items"]}
    assert owners <= {item["metadata"]["uid"] for item in faults.get("finetunejobs")["items"]}
    assert installed.ask(f"{name}:v1", "Where is the Acme shop?")


def state(team: Team, name: str) -> str:
    """Return how the job stands, or why nobody can say."""
    try:
        return str(team.ready(name))
    except subprocess.CalledProcessError as error:
        return str(error.stderr)


def serves(cluster: NodeCluster) -> bool:
    """Tell whether the API server answers again."""
    try:
        cluster.kubectl("get", "--raw", "/readyz")
        return cluster.serves("finetunejobs")
    except subprocess.CalledProcessError:
        return False
