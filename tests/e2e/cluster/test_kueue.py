"""Trainings in a queue of the real Kueue: queued, admitted, preempted, resumed."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.jobs import small_job
from e2e.cluster.test_faults import steps_done, steps_in, training_logs
from support.installed import Installed, Manifest, Team, until
from support.kueue import documented, kueue, workload_of
from support.occupying import occupying_job, priority_class

PAGE = Path(__file__).parents[3] / "docs" / "queues.md"
ROOM = "60m"
"""CPU that the queue has: a training asks for 50m."""
STEPS = 200
"""So many take longer, on any machine, than the operator needs to tell of the first ones and Kueue to preempt."""
FLAVOR = {"kubernetes.io/os": "linux"}


@pytest.fixture(scope="module")
def queues(queued: Team, installed: Installed) -> Iterator[Team]:
    """Yield the team, with Kueue installed and the queue of the documentation, which has room for one training."""
    flavor, cluster_queue, local = documented(PAGE, ("ResourceFlavor", "ClusterQueue", "LocalQueue"))
    flavor["spec"] = {"nodeLabels": FLAVOR}
    local["metadata"]["namespace"] = queued.namespace
    classes = [priority_class("batch", 10), priority_class("urgent", 1000)]
    with kueue(installed.cluster, installed.helm):
        queued.cluster.kubectl("apply", "--filename=-", objects=[flavor, with_room(cluster_queue), local, *classes])
        yield queued
        queued.cluster.kubectl("delete", "finetunejobs,jobs", "--all", "--namespace", queued.namespace)
        queued.cluster.kubectl("delete", "priorityclass", "batch", "urgent", "--ignore-not-found")


def with_room(cluster_queue: Manifest, cpu: str = ROOM) -> Manifest:
    """Return the ClusterQueue with so much CPU."""
    changed = copy.deepcopy(cluster_queue)
    (group,) = changed["spec"]["resourceGroups"]
    (quota,) = [item for item in group["flavors"][0]["resources"] if item["name"] == "cpu"]
    quota["nominalQuota"] = cpu
    return changed


def queued_job(name: str, **training: Any) -> Manifest:
    """Return a FineTuneJob in the queue, of the lower priority."""
    steps = {"maxSteps": STEPS, "loggingSteps": 1, "checkpoint": {"saveSteps": 1000}}
    job = small_job(name, {**steps, **training})
    job["spec"]["scheduling"] = {"queueName": "gpus", "priorityClassName": "batch"}
    return job


def wait_said(team: Team, name: str, reason: str, *words: str, timeout: float = 600) -> str:
    """Wait until a job stands at `reason` and its sentence has all these words; return the sentence."""

    def there() -> str | None:
        _, stands, message = team.ready(name)
        return message if stands == reason and all(word in message for word in words) else None

    return str(until(there, timeout, lambda: f"never {reason} with {words}: {team.ready(name)}"))


def train_job(team: Team, name: str) -> Manifest:
    """Return the Job of a training that is not being deleted."""
    jobs = [job for job in team.jobs(name, "train") if not job["metadata"].get("deletionTimestamp")]
    assert len(jobs) == 1, [job["metadata"]["name"] for job in jobs]
    return jobs[0]


def nothing_in(team: Team, kinds: str) -> bool:
    """Tell whether nothing of these kinds is left in the team's namespace."""
    return not team.get(kinds)["items"]


def test_queued_preempted_and_resumed(queues: Team) -> None:
    """It says where it stands; preempted it saves a checkpoint, keeps its Job and its progress, and goes on there."""
    team = queues
    team.apply(occupying_job("occupant", "gpus", "batch"))
    until(lambda: admitted(team, "occupant"), 120, lambda: f"not admitted: {team.get('workloads')}")
    job = queued_job("waits")
    with others_before(team):
        team.apply(job)
        said = wait_said(team, "waits", "Queued", "place 2 there and 3 in its ClusterQueue", "unused quota for cpu")
        assert "'gpus'" in said
    wait_said(team, "waits", "Queued", "place 1 there and 1 in its ClusterQueue", "insufficient unused quota for cpu")
    assert team.pods("waits", "train") == []
    move_and_pause(team, job)
    team.cluster.kubectl("delete", "job", "occupant", "--namespace", team.namespace)
    team.wait_running("waits", "train")
    before = train_job(team, "waits")
    assert before["spec"]["template"]["spec"]["nodeSelector"] == FLAVOR, "Kueue wrote it into the template"
    until(lambda: steps_done(team, "waits") >= 5, 1200, lambda: f"no step was done: {team.ready('waits')}")
    until(lambda: progress(team, "waits").get("done"), 120, lambda: "no progress is told")
    team.apply(occupying_job("preemptor", "gpus", "urgent"))
    said = wait_said(team, "waits", "Queued", "was taken back by the queue (Preempted", "goes on from its newest")
    until(lambda: runs(team, "preemptor"), 300, lambda: "the urgent one was not admitted")
    assert progress(team, "waits")["text"].endswith("%")
    team.cluster.kubectl("delete", "job", "preemptor", "--namespace", team.namespace)
    team.wait_for("waits", "Succeeded")
    first, second = training_logs(team, "waits")
    (saved,) = set(re.findall(r"asked to end: saving a checkpoint after step (\d+)", first))
    (resumed,) = re.findall(r"going on from step (\d+)", second)
    assert int(resumed) == int(saved) >= 5
    assert steps_in(second) == STEPS
    after, stage = train_job(team, "waits"), team.stage("waits", "train")
    assert after["metadata"]["uid"] == before["metadata"]["uid"], "the operator left Kueue's Job alone"
    assert stage["job"] == before["metadata"]["name"]
    assert not {"failures", "interruptions"} & stage.keys()
    assert warnings(team, "waits") == {"Inadmissible"}


@contextmanager
def others_before(team: Team) -> Iterator[None]:
    """Have two Jobs wait before what is queued in the block: one in its LocalQueue, one in another of the same room."""
    (local,) = documented(PAGE, ("LocalQueue",))
    team.apply({**local, "metadata": {"name": "aside"}})
    for name, queue in {"ahead": "gpus", "aside": "aside"}.items():
        team.apply(occupying_job(name, queue, "batch"))
    try:
        yield
    finally:
        team.cluster.kubectl("delete", "job", "ahead", "aside", "--namespace", team.namespace)


def admitted(team: Team, job: str) -> bool:
    """Tell whether Kueue lets a Job run."""
    return not team.get("job", job)["spec"]["suspend"]


def move_and_pause(team: Team, job: Manifest) -> None:
    """While it waits: a queue that there is none of, the right one again, a pause. Each is said, and left again."""
    job["spec"]["scheduling"]["queueName"] = "nowhere"
    team.apply(job)
    wait_said(team, "waits", "Inadmissible", "LocalQueue nowhere doesn't exist")
    job["spec"]["scheduling"]["queueName"] = "gpus"
    team.apply(job)
    wait_said(team, "waits", "Queued", "place 1 there")
    team.apply({**job, "spec": {**job["spec"], "suspend": True}})
    team.wait_for("waits", "Suspended")
    until(lambda: only_the_occupant(team), 120, lambda: "it is still in the queue")
    team.apply({**job, "spec": {**job["spec"], "suspend": False}})
    wait_said(team, "waits", "Queued", "place 1 there")


def only_the_occupant(team: Team) -> bool:
    """Tell whether the queue has only what occupies it."""
    (found,) = team.get("workloads")["items"][:1]
    return len(team.get("workloads")["items"]) == 1 and "occupant" in found["metadata"]["name"]


def progress(team: Team, name: str) -> dict[str, Any]:
    """Return what the status says of how far it is."""
    return dict(team.job(name)["status"].get("progress") or {})


def runs(team: Team, job: str) -> bool:
    """Tell whether a Pod of a Job runs."""
    pods = team.get("pods", f"--selector=batch.kubernetes.io/job-name={job}")["items"]
    return any(pod["status"].get("phase") == "Running" for pod in pods)


def warnings(team: Team, name: str) -> set[str]:
    """Return the reasons of the warnings that were told about a FineTuneJob."""
    about = f"--field-selector=involvedObject.name={name},involvedObject.kind=FineTuneJob,type=Warning"
    return {str(item["reason"]) for item in team.get("events", about)["items"]}


@pytest.mark.nightly
def test_two_nodes_are_admitted_together(queues: Team) -> None:
    """With room for one of two pods none is made; deleted, it leaves the queue; with room for both they run."""
    team = queues
    job = queued_job("pair", nodes=2)
    team.apply(job)
    wait_said(team, "pair", "Queued", "'gpus'", "quota for cpu")
    workload = workload_of(team.cluster, train_job(team, "pair"))
    assert workload is not None
    assert [part["count"] for part in workload["spec"]["podSets"]] == [2]
    assert team.pods("pair", "train") == []
    team.delete("pair")
    until(lambda: nothing_of(team, "pair"), 120, lambda: f"{team.get('workloads,jobs')} are left")
    (cluster_queue,) = documented(PAGE, ("ClusterQueue",))
    team.cluster.kubectl("apply", "--filename=-", objects=with_room(cluster_queue, "120m"))
    team.apply(job)
    until(lambda: len(running(team, "pair")) == 2, 600, lambda: f"two do not run: {team.ready('pair')}")
    team.delete("pair")


def running(team: Team, name: str) -> list[Manifest]:
    """Return the Pods of a training that run."""
    return [pod for pod in team.pods(name, "train") if pod["status"].get("phase") == "Running"]


def nothing_of(team: Team, name: str) -> bool:
    """Tell whether nothing is left of a FineTuneJob that was deleted."""
    return not team.jobs(name) and not [
        item for item in team.get("workloads")["items"] if f"-{name}-" in item["metadata"]["name"]
    ]
