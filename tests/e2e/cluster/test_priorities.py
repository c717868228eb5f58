"""A training beside something more important, without a queue: the scheduler ends its Pod."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from e2e.cluster.jobs import small_job
from e2e.cluster.test_faults import steps_done, steps_in, training_logs
from support.installed import Team, until
from support.occupying import occupying_pod, priority_class

SEAT = "example.com/seat"
"""A resource of which the node has one: as a GPU, but for nobody else's tests."""
STEPS = 100
"""So many take longer than the scheduler needs to preempt, on any machine."""


@pytest.fixture
def one_seat(queued: Team) -> Iterator[Team]:
    """Yield the team, on a node with one seat and with two priorities."""
    node = queued.cluster.get("nodes")["items"][0]["metadata"]["name"]
    classes = [priority_class("later", 10), priority_class("sooner", 1000)]
    queued.cluster.kubectl("apply", "--filename=-", objects=classes)
    set_seats(queued, node, "1")
    yield queued
    queued.cluster.kubectl("delete", "finetunejobs,pods", "--all", "--namespace", queued.namespace)
    set_seats(queued, node, None)
    queued.cluster.kubectl("delete", "priorityclass", "later", "sooner")


def set_seats(team: Team, node: str, count: str | None) -> None:
    seats = {SEAT: count}
    patch = {"status": {"capacity": seats, "allocatable": seats}}
    team.cluster.kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={json.dumps(patch)}")


def test_the_scheduler_takes_its_place_and_gives_it_back(one_seat: Team) -> None:
    """A Pod of a higher priority needs the seat: a checkpoint is saved, the next Pod waits, and goes on from there."""
    team, name = one_seat, "unimportant"
    job = small_job(name, {"maxSteps": STEPS, "loggingSteps": 1, "checkpoint": {"saveSteps": 1000}, "seed": 11})
    job["spec"]["scheduling"] = {"priorityClassName": "later"}
    seat = {"requests": {SEAT: "1"}, "limits": {SEAT: "1"}}
    job["spec"]["pods"] = {"train": {"resources": seat}}
    team.apply(job)
    team.wait_running(name, "train")
    until(lambda: steps_done(team, name) >= 5, 1200, lambda: f"no step was done: {team.ready(name)}")
    pod = {"apiVersion": "v1", "kind": "Pod", **occupying_pod({SEAT: "1"}, "sooner")}
    pod["metadata"]["name"] = "important"
    team.cluster.kubectl("create", "--namespace", team.namespace, "--filename=-", objects=pod)
    assert SEAT in team.wait_for(name, "Unschedulable")
    until(lambda: team.get("pod", "important")["status"]["phase"] == "Running", 300, lambda: "it took no place")
    team.cluster.kubectl("delete", "pod", "important", "--namespace", team.namespace)
    team.wait_for(name, "Succeeded")
    first, second = training_logs(team, name)
    (saved,) = set(re.findall(r"asked to end: saving a checkpoint after step (\d+)", first))
    (resumed,) = re.findall(r"going on from step (\d+)", second)
    assert int(resumed) == int(saved) >= 5
    assert steps_in(second) == STEPS
    assert team.stage(name, "train")["attempts"] == 1, "the Job made the next Pod by itself"
    assert "failures" not in team.stage(name, "train")
