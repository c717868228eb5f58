"""Jobs in Kueue's queues: what is read, how often, and what the operator leaves alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controller.conftest import Life
from support.fake_cluster import Clock, FakeCluster
from support.workloads import NO_ROOM, PENDING, PREEMPTED, pending_workloads, workload
from tunesmith.kube.cluster import ApiError, Object
from tunesmith.kube.items import Key
from tunesmith.queued_jobs import QueuedJobs

QUEUE = {"spec.scheduling": {"queueName": "gpus"}}
EVICTED = {"Evicted": ("True", "Preempted", PREEMPTED)}


def queued(life: Life, changes: dict[str, Any] | None = None) -> Object:
    """Have the operator queue a training and return its Job."""
    life.apply({**QUEUE, **(changes or {})})
    life.run(until="train")
    (job,) = life.unfinished("train")
    return job


def put(life: Life, job: Object, conditions: dict[str, tuple[str, str, str]]) -> None:
    """Have Kueue say something of a Job."""
    said = workload(job, conditions)
    key = ("Workload", job["metadata"]["namespace"], said["metadata"]["name"])
    life.cluster.objects.pop(key, None)
    life.cluster.put_new(said)


def suspend(life: Life, job: Object, *, suspended: bool) -> None:
    """Suspend a Job or let it go on, as Kueue does."""
    job["spec"]["suspend"] = suspended
    life.cluster.changed(job)


def test_it_says_where_in_the_queue_it_stands(life: Life) -> None:
    """The place and Kueue's own words are in the condition and in the stage; another place is told later."""
    job = queued(life)
    put(life, job, PENDING)
    name = f"job-{job['metadata']['name']}-1"
    life.cluster.put_new(pending_workloads("gpus", "default", {"other": (0, 0), name: (1, 4)}))
    life.wait(3)
    assert life.ready() == ("False", "Queued")
    assert "place 2 there and 5 in its ClusterQueue" in life.condition()["message"]
    assert NO_ROOM in life.condition()["message"]
    assert NO_ROOM in life.stage("train")["message"]
    life.cluster.objects[("PendingWorkloadsSummary", "default", "gpus")]["items"][1]["positionInLocalQueue"] = 0
    life.wait(15)
    assert "place 1 there" in life.condition()["message"]
    assert [note.reason for note in life.notes].count("Queued") == 1, "a place is not an Event"


def test_it_is_read_now_and_then(life: Life) -> None:
    """Ten minutes in a queue, looked at every second: read every 15 s, places too; nothing is read once it runs."""
    job = queued(life)
    put(life, job, PENDING)
    life.cluster.put_new(pending_workloads("gpus", "default", {}))
    life.wait(3)
    life.cluster.finds.clear()
    life.cluster.calls.clear()
    for _ in range(600):
        life.wait(1)
    assert life.cluster.finds.count("Workload") == 40
    assert len([call for call in life.cluster.calls if call[1] == "PendingWorkloadsSummary"]) == 40
    suspend(life, job, suspended=False)
    life.programs.start(job)
    life.look()
    life.cluster.finds.clear()
    for _ in range(60):
        life.wait(1)
    assert "Workload" not in life.cluster.finds


def test_many_of_them_are_read_less_often() -> None:
    """Of 200 queued trainings each is read every 20 s: ten readings a second, however many there are."""
    clock = Clock()
    cluster = FakeCluster(clock)
    labels, old = {"kueue.x-k8s.io/queue-name": "q"}, "2025-12-31T00:00:00Z"
    metas = [{"name": f"bot{i}", "namespace": "a", "uid": str(i), "creationTimestamp": old} for i in range(200)]
    jobs: list[Object] = [{"metadata": {**meta, "labels": labels}} for meta in metas]
    reader = QueuedJobs(cluster, clock.now)

    def look() -> int:
        """Look at each of them and return how many were read."""
        cluster.finds.clear()
        for job in jobs:
            asyncio.run(reader.why(Key("a", job["metadata"]["name"]), job, "train"))
        return cluster.finds.count("Workload")

    assert look() == 200
    clock.forward(20)
    assert look() == 200
    clock.forward(19)
    assert look() == 0
    clock.forward(1)
    assert look() == 200


REFUSALS: dict[str, tuple[ApiError, str]] = {
    "no Kueue": (ApiError(404, "NotFound", "the server could not find the requested resource"), "Inadmissible"),
    "no right": (ApiError(403, "Forbidden", "workloads is forbidden"), "Queued"),
    "overloaded": (ApiError(429, "TooManyRequests", "later"), "Queued"),
    "no answer": (ApiError(0, "TimeoutError", ""), "Queued"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_without_an_answer_it_stands_all_the_same(life: Life, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Kueue is missing, or may not be asked: the training is queued, and without Kueue it is said what to do."""
    error, reason = REFUSALS[case]
    find = life.cluster.find

    async def refusing(resource: Any, namespace: str | None, **selectors: str) -> list[Object]:
        if resource.kind == "Workload":
            raise error
        return await find(resource, namespace, **selectors)

    job = queued(life)
    monkeypatch.setattr(life.cluster, "find", refusing)
    life.wait(60)
    assert life.ready() == ("False", reason)
    assert "'gpus'" in life.condition()["message"]
    assert ("there is no Kueue" in life.condition()["message"]) == (case == "no Kueue")
    assert [item["metadata"]["uid"] for item in life.unfinished("train")] == [job["metadata"]["uid"]]


def test_an_older_kueue_is_asked_by_its_own_version(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only v1beta1 is served, that is read."""
    find = life.cluster.find

    async def older(resource: Any, namespace: str | None, **selectors: str) -> list[Object]:
        if resource.api_version == "kueue.x-k8s.io/v1beta2":
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        return await find(resource, namespace, **selectors)

    job = queued(life)
    monkeypatch.setattr(life.cluster, "find", older)
    put(life, job, PENDING)
    life.wait(3)
    assert NO_ROOM in life.condition()["message"]


def test_a_job_that_kueue_takes_no_notice_of(life: Life) -> None:
    """Half a minute without a Workload: nobody will admit it, and it is said what to look at. Before, it is queued."""
    queued(life)
    life.wait(20)
    assert life.ready() == ("False", "Queued")
    life.wait(40)
    assert life.ready() == ("False", "Inadmissible")
    assert "has made no Workload" in life.condition()["message"]


def test_preempted_and_resumed(life: Life) -> None:
    """Kueue suspends the running Job and lets it go on: one Job, one attempt, no failure, progress is kept."""
    job = queued(life)
    suspend(life, job, suspended=False)
    pod = life.programs.start(job)
    name = pod["metadata"]["name"]
    life.cluster.logs[name] = '{"stage": "train", "done": 34, "total": 100, "of": "steps", "metrics": {"loss": 1.5}}'
    life.look()
    life.wait(30)
    assert life.cluster.status("bot")["progress"]["text"] == "34 %"
    put(life, job, {**EVICTED, "QuotaReserved": ("False", "Pending", PREEMPTED)})
    suspend(life, job, suspended=True)
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    life.cluster.changed(pod)
    life.wait(1)
    assert life.ready() == ("False", "Queued")
    assert PREEMPTED in life.condition()["message"]
    assert "At least 34 of 100 steps were done; it goes on from its newest checkpoint" in life.condition()["message"]
    life.cluster.remove(pod)
    life.wait(7200)
    progress = life.cluster.status("bot")["progress"]
    assert (progress["text"], progress["done"], progress["loss"]) == ("34 %", 34, "1.5")
    assert "eta" not in progress
    assert [item["metadata"]["uid"] for item in life.unfinished("train")] == [job["metadata"]["uid"]]
    suspend(life, job, suspended=False)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    stage = life.stage("train")
    assert stage["attempts"] == 1
    assert not {"failures", "interruptions"} & stage.keys()


def test_what_kueue_writes_into_the_template_is_its_own(life: Life) -> None:
    """Node selector, tolerations and labels of a ResourceFlavor, and an edit of the job: the Job is not made anew."""
    job = queued(life)
    template = job["spec"]["template"]
    template["spec"]["nodeSelector"] = {"flavor": "spot"}
    template["spec"]["tolerations"] = [{"key": "spot", "operator": "Exists"}]
    template["metadata"]["labels"]["kueue.x-k8s.io/podset"] = "main"
    suspend(life, job, suspended=False)
    life.programs.pending(job, conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}])
    life.wait(60)
    life.cluster.edit("bot", lambda item: item["spec"].update(ttlSecondsAfterFinished=604801))
    life.cluster.edit("bot", lambda item: item["spec"].update(ttlSecondsAfterFinished=604800))
    life.wait(60)
    assert [item["metadata"]["uid"] for item in life.unfinished("train")] == [job["metadata"]["uid"]]


def test_time_in_the_queue_is_not_charged_and_time_that_ran_is(life: Life) -> None:
    """50 of 60 minutes, preempted, ten hours in the queue: the same Job goes on for ten minutes and not for 60."""
    job = queued(life, {"spec.activeDeadlineSeconds": 3600})
    suspend(life, job, suspended=False)
    pod = life.programs.start(job)
    life.look()
    life.wait(3000)
    suspend(life, job, suspended=True)
    life.cluster.remove(pod)
    life.look()
    life.wait(36000)
    assert life.stage("train")["elapsedSeconds"] == 3000
    suspend(life, job, suspended=False)
    life.programs.start(job)
    life.look()
    assert 0 < (life.wakes[Key("default", "bot")] or 0) <= 600
    life.wait(599)
    assert life.ready() == ("False", "Training")
    life.wait(1)
    assert life.ready() == ("False", "DeadlineExceeded")
    assert life.unfinished("train") == []


def test_a_deadline_that_is_raised_holds_for_the_training_that_runs(life: Life) -> None:
    """Its Pod ends by the old one: what it was not given is still there, and the training goes on."""
    job = queued(life, {"spec.activeDeadlineSeconds": 3600})
    suspend(life, job, suspended=False)
    pod = life.programs.start(job)
    life.look()
    life.cluster.edit("bot", lambda item: item["spec"].update(activeDeadlineSeconds=7200))
    life.wait(3600)
    life.programs.end(job, pod, None, 143, reason="DeadlineExceeded")
    life.look()
    (second,) = life.unfinished("train")
    assert second["spec"]["template"]["spec"]["activeDeadlineSeconds"] == 3600


def test_another_queue_is_another_job(life: Life) -> None:
    """`queueName` is changed while it waits: the Job is made anew for the other queue, and no failure is counted."""
    job = queued(life)
    put(life, job, PENDING)
    life.wait(3)
    life.cluster.edit("bot", lambda item: item["spec"]["scheduling"].update(queueName="more-gpus"))
    life.look()
    life.cluster.remove(job)
    life.wait(3)
    (second,) = life.unfinished("train")
    assert second["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "more-gpus"
    assert "failures" not in life.stage("train")


def test_another_queue_for_a_training_that_runs(life: Life) -> None:
    """`queueName` is changed while it runs: it runs on, also after a preemption; a Job made anew is for the other."""
    job = queued(life)
    suspend(life, job, suspended=False)
    pod = life.programs.start(job)
    life.look()
    life.cluster.edit("bot", lambda item: item["spec"]["scheduling"].update(queueName="more-gpus"))
    life.wait(60)
    assert life.ready() == ("False", "Training")
    suspend(life, job, suspended=True)
    life.cluster.remove(pod)
    life.wait(60)
    assert life.ready()[0] == "False"
    assert "'gpus'" in life.condition()["message"]
    suspend(life, job, suspended=False)
    life.programs.start(job)
    life.wait(60)
    (running,) = life.unfinished("train")
    assert running["metadata"]["uid"] == job["metadata"]["uid"]
    assert running["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    life.programs.evict(job)
    life.look()
    (second,) = life.unfinished("train")
    assert second["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "more-gpus"
    assert "failures" not in life.stage("train")


def test_a_stage_that_kueue_puts_into_the_default_queue(life: Life) -> None:
    """A LocalQueue `default` takes every Job: what waits is named, and that is no training."""
    life.apply()
    life.look()
    (job,) = life.unfinished("fetch")
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "default"
    suspend(life, job, suspended=True)
    life.look()
    assert life.ready() == ("False", "Queued")
    assert life.condition()["message"] == "the queue 'default' has not admitted its Job yet"
    put(life, job, PENDING)
    life.wait(3)
    assert life.ready() == ("False", "Queued")
    assert life.condition()["message"] == f"fetch waits in LocalQueue 'default': {NO_ROOM}"
    suspend(life, job, suspended=False)
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_pods_that_train_together_are_one_thing_in_the_queue(life: Life) -> None:
    """Two nodes: one Job of two Pods in the queue, so that Kueue admits both or none."""
    job = queued(life, {"spec.training.nodes": 2})
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert (job["spec"]["parallelism"], job["spec"]["completions"]) == (2, 2)
    assert "kueue.x-k8s.io/job-min-parallelism" not in job["metadata"]["annotations"]
