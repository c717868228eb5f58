"""What a cluster does to jobs that is nobody's fault, and what people do to them in the middle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controller.conftest import SETTINGS, Life
from support.fake_cluster import failure
from tunesmith.api.settings import Settings
from tunesmith.api.status import FineTuneJobStatus
from tunesmith.kube.cache import Key
from tunesmith.kube.cluster import ApiError, Object
from tunesmith_stages.contract import ExitCode, Report

NO_GPU: dict[str, Any] = {
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient nvidia.com/gpu"}
    ]
}


def training(life: Life, spec: dict[str, Any] | None = None) -> Object:
    """Have a job come as far as its training; return the training's Job."""
    life.apply(spec)
    life.run(until="train")
    return life.unfinished("train")[0]


# --- time ------------------------------------------------------------------------------------------------------------


def test_time_without_a_place_is_not_charged(life: Life) -> None:
    """Two hours without a GPU use up nothing of the hour that the training may take."""
    job = training(life, {"spec.activeDeadlineSeconds": 3600})
    life.programs.pending(job, **NO_GPU)
    job["status"] = {"startTime": "2026-01-01T00:00:00Z"}
    life.cluster.changed(job)
    life.wait(7200)
    life.cluster.edit("bot", lambda item: item["spec"].update(suspend=True))
    life.look()
    life.cluster.remove(job)
    life.cluster.edit("bot", lambda item: item["spec"].update(suspend=False))
    life.look()
    (second,) = life.unfinished("train")
    assert second["spec"]["template"]["spec"]["activeDeadlineSeconds"] == 3600


def test_a_training_that_has_used_up_its_time_stalls(life: Life) -> None:
    """The Pod was ended by its deadline: nothing is left, so somebody must give more."""
    job = training(life, {"spec.activeDeadlineSeconds": 3600})
    pod = life.programs.start(job)
    life.look()
    life.wait(3600)
    stopped = Report(failure=failure(ExitCode.INTERRUPTED, "Interrupted"))
    life.programs.end(job, pod, stopped, ExitCode.INTERRUPTED, reason="DeadlineExceeded")
    life.look()
    assert life.ready() == ("False", "DeadlineExceeded")
    assert life.condition("Stalled")["status"] == "True"
    life.cluster.edit("bot", lambda item: item["spec"].update(activeDeadlineSeconds=7200))
    life.look()
    (second,) = life.unfinished("train")
    assert second["spec"]["template"]["spec"]["activeDeadlineSeconds"] == 3600


def test_a_slow_start_does_not_keep_a_used_up_training_alive(life: Life) -> None:
    """The Pod's time counts from its node's side: the seconds in which the image was pulled are not tried for again."""
    job = training(life, {"spec.activeDeadlineSeconds": 3600})
    life.programs.pending(job)
    life.clock.forward(5)
    pod = life.programs.start(job)
    life.look()
    life.wait(3595)
    life.programs.end(job, pod, None, 137, reason="DeadlineExceeded")
    life.look()
    assert life.ready() == ("False", "DeadlineExceeded")


def test_every_hour_of_a_training_is_charged_once(life: Life) -> None:
    """Ten minutes, an eviction within the same Job, two hours without a place: ten minutes are charged."""
    job = training(life, {"spec.activeDeadlineSeconds": 3600})
    first = life.programs.start(job)
    life.look()
    life.wait(600)
    first["status"] = {"phase": "Failed", "reason": "Evicted"}
    life.cluster.changed(first)
    life.programs.pending(job, **NO_GPU)
    life.look()
    life.wait(7200)
    assert life.stage("train")["elapsedSeconds"] == 600
    life.cluster.remove(job)
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_an_attempt_that_the_status_never_told_of_is_charged_once(life: Life) -> None:
    """The operator was killed when it had created the Job; that was evicted; now a quota lets none take its place."""
    life.apply({"spec.activeDeadlineSeconds": 3600})
    life.run(until="rehearse")
    before = life.cluster.status("bot")
    life.run(until="train")
    (job,) = life.unfinished("train")
    life.cluster.listener = lambda _kind, _item: None
    life.cluster.edit("bot", lambda item: item.update(status=before))
    life.programs.start(job)
    life.clock.forward(600)
    life.programs.evict(job)
    quota = ApiError(403, "Forbidden", "exceeded quota")
    life.cluster.refuse = lambda verb, item: quota if (verb, item["kind"]) == ("create", "Job") else None
    life.restart()
    for _ in range(5):
        asyncio.run(life.reconciler.reconcile(Key("default", "bot")))
        life.clock.forward(60)
    assert life.ready() == ("False", "QuotaExceeded")
    assert life.stage("train")["elapsedSeconds"] == 600
    assert life.stage("train")["attempts"] == 1
    life.cluster.refuse = lambda _verb, _item: None
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.stage("train")["attempts"] == 2


def test_what_is_ended_as_soon_as_it_began_is_tried_less_and_less_often(life: Life) -> None:
    """A node that ends every Pod at once does not get one every ten seconds for ever."""
    job = training(life)
    waits = []
    for _ in range(6):
        life.programs.pending(job)
        pod = life.cluster.of_kind("Pod")[-1]
        life.programs.end(job, pod, None, 1, reason="UnexpectedAdmissionError")
        life.look()
        assert life.unfinished("train") == []
        waited = 0
        while not (jobs := life.unfinished("train")):
            life.wait(5)
            waited += 5
        waits.append(waited)
        job = jobs[0]
    assert waits == sorted(waits)
    assert waits[0] == 10
    assert waits[-1] == 300
    assert "failures" not in life.stage("train")
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert "interruptions" not in life.stage("train")


# --- reports that get lost -------------------------------------------------------------------------------------------


def lose_reports(life: Life, name: str) -> None:
    for pod in [pod for pod in life.cluster.of_kind("Pod") if pod["metadata"]["name"].startswith(name)]:
        life.cluster.remove(pod)


def test_results_that_never_show_do_not_keep_a_cluster_busy(life: Life) -> None:
    """A program that ends well and leaves nothing is tried again, later and later."""
    training(life)
    attempts = []
    for _ in range(40):
        for job in life.unfinished():
            pod = life.programs.start(job)
            life.programs.end(job, pod, Report(), 0)
            lose_reports(life, "bot-train") if not job["metadata"]["name"].endswith("lookup") else None
        life.wait(5)
        attempts.append(life.stage("train")["attempts"])
    assert attempts[-1] <= 6
    assert life.ready()[0] == "False"
    assert life.stage("train")["reason"] == "ResultLost"


def test_a_report_that_is_lost_is_looked_up(life: Life) -> None:
    """The Pod was gone before its report was read: that is said until a look-up has told what came of it."""
    life.programs.finish(training(life))
    lose_reports(life, "bot-train")
    life.look()
    assert life.ready() == ("False", "ReportLost")
    assert (life.stage("train")["state"], life.stage("train")["reason"]) == ("Unknown", "ReportLost")
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


def test_a_look_of_which_nothing_is_left_is_made_again(life: Life) -> None:
    """The report of the look-up is lost as well: the reason stays, and nothing is trained a second time."""
    life.programs.finish(training(life))
    lose_reports(life, "bot-train")
    life.look()
    (lookup,) = life.unfinished("train")
    life.programs.finish(lookup)
    lose_reports(life, lookup["metadata"]["name"])
    life.look()
    assert life.ready() == ("False", "ReportLost")
    assert "the Pod that looked it up is gone too" in life.condition()["message"]
    life.wait(11)
    (again,) = life.unfinished("train")
    assert again["metadata"]["name"] == lookup["metadata"]["name"]
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


def test_a_failed_look_is_not_taken_for_a_lost_result(life: Life) -> None:
    """The look-up itself fails: it is tried again, with its own reason, and no second training is started."""
    job = training(life)
    life.programs.finish(job)
    lose_reports(life, "bot-train")
    life.look()
    (lookup,) = life.unfinished("train")
    pod = life.programs.start(lookup)
    life.programs.end(lookup, pod, Report(failure=failure(ExitCode.NO_SPACE, "VolumeGone", "no answer")), 74)
    life.look()
    assert life.ready() == ("False", "VolumeGone")
    assert life.unfinished("train") == []
    life.wait(11)
    life.cluster.remove(lookup)
    life.wait(3)
    (again,) = life.unfinished("train")
    assert again["metadata"]["name"] == lookup["metadata"]["name"]
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


def test_a_look_that_is_held_up_says_so(life: Life) -> None:
    """Why a look-up does not run is where the job stands."""
    job = training(life)
    life.programs.finish(job)
    lose_reports(life, "bot-train")
    life.look()
    (lookup,) = life.unfinished("train")
    life.programs.pending(lookup, **NO_GPU)
    life.look()
    assert life.ready() == ("False", "Unschedulable")


def test_a_report_that_comes_late_is_believed(life: Life) -> None:
    """The Job's end is seen before the Pod's: once the report is there, no look-up is waited for."""
    job = training(life)
    life.programs.start(job)
    life.look()
    listener, late = life.cluster.listener, []
    life.cluster.listener = lambda kind, item: (
        late.append((kind, item)) if item["kind"] == "Pod" else listener(kind, item)
    )
    life.programs.finish(job)
    life.look()
    life.cluster.listener = listener
    for kind, item in late:
        life.hear(kind, item)
    life.look()
    assert life.stage("train")["state"] == "Succeeded"


# --- Jobs of ours that somebody edits --------------------------------------------------------------------------------


def lower(life: Life, job: Object, pods: int) -> None:
    """Have somebody set how many Pods a Job may have at a time; its controller deletes those that are too many."""
    job["spec"]["parallelism"] = pods
    life.cluster.changed(job)
    for pod in life.cluster.pods_of(job)[pods:]:
        life.cluster.remove(pod)
    life.look()


def second_pod(life: Life, job: Object) -> Object:
    """Create the Pod of a training's second node; it runs."""
    pod = life.programs.start(job)
    pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] = "1"
    life.cluster.changed(pod)
    return pod


@pytest.mark.parametrize("begun", [False, True])
def test_a_job_that_may_have_no_pod_says_so(life: Life, begun: bool) -> None:
    """Nothing is created or started while `parallelism` is 0: what was done and what to do are said, also later."""
    job = training(life)
    if begun:
        life.programs.start(job)
        life.look()
    lower(life, job, 0)
    name = job["metadata"]["name"]
    for _ in range(3):
        assert life.ready() == ("False", "ParallelismLowered")
        assert life.condition()["message"] == (
            f"somebody set `spec.parallelism` of Job {name} to 0: set it back to 1, or delete the Job, then it is made "
            "anew"
        )
        life.wait(600)
    assert (life.stage("train")["state"], life.stage("train")["reason"]) == ("Pending", "ParallelismLowered")
    assert [(note.type, note.reason) for note in life.notes].count(("Warning", "ParallelismLowered")) == 1
    lower(life, job, 1)
    assert life.ready() == ("False", "Pending")
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


def test_a_job_that_may_have_no_pod_is_made_anew(life: Life) -> None:
    """As its sentence says: who deletes the Job gets another one, with as many Pods as it takes."""
    job = training(life)
    lower(life, job, 0)
    life.cluster.remove(job)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


def test_a_training_that_may_have_too_few_pods_says_so(life: Life) -> None:
    """One of two nodes trains nothing, however long its Pod runs: that is not said to train."""
    job = training(life, {"spec.training.nodes": 2})
    life.programs.start(job)
    second_pod(life, job)
    life.look()
    assert life.ready() == ("False", "Training")
    lower(life, job, 1)
    assert life.ready() == ("False", "ParallelismLowered")
    assert "to 1: set it back to 2, or delete" in life.condition()["message"]
    lower(life, job, 2)
    second_pod(life, job)
    life.look()
    assert life.ready() == ("False", "Training")


def test_pods_that_are_there_are_enough(life: Life) -> None:
    """A node whose Pod has ended well needs no other: that fewer may run now keeps nothing back."""
    job = training(life, {"spec.training.nodes": 2})
    life.programs.start(job)
    second_pod(life, job)["status"]["phase"] = "Succeeded"
    job["spec"]["parallelism"] = 1
    life.cluster.changed(job)
    life.look()
    assert life.ready() == ("False", "Training")


def test_how_far_a_training_was_is_said_while_it_may_have_no_pod(life: Life) -> None:
    """Its Pod is ended as a queue ends it, with a checkpoint: nothing of that is lost."""
    job = training(life)
    pod = life.programs.start(job)
    life.look()
    life.cluster.logs[pod["metadata"]["name"]] = '{"stage": "train", "done": 34, "total": 100, "of": "steps"}'
    life.wait(30)
    lower(life, job, 0)
    assert "At least 34 of 100 steps were done; it goes on from its newest checkpoint" in life.condition()["message"]


def test_a_job_that_somebody_suspends_says_so(life: Life) -> None:
    """No queue lets it go on: that it is suspended, and by no queue, is said until somebody does."""
    job = training(life)
    job["spec"]["suspend"] = True
    life.cluster.changed(job)
    life.wait(600)
    assert life.ready() == ("False", "Queued")
    assert life.condition()["message"] == (
        "its Job is suspended, and names no queue: what suspended it must let it go on"
    )
    assert life.stage("train")["reason"] == "Queued"
    job["spec"]["suspend"] = False
    life.cluster.changed(job)
    life.run()
    assert life.ready() == ("True", "Succeeded")


# --- pods ------------------------------------------------------------------------------------------------------------


def test_the_newest_pod_tells_how_it_ended(life: Life) -> None:
    """Evicted first, then really failed: it is not tried again as if it had been evicted."""
    job = training(life)
    first = life.programs.start(job)
    first["status"] = {
        "phase": "Failed",
        "reason": "Evicted",
        "conditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    life.cluster.changed(first)
    life.clock.forward(60)
    second = life.programs.start(job)
    life.look()
    life.wait(3600)
    life.programs.end(job, second, Report(failure=failure(ExitCode.BAD_CONFIG, "NoSuchModule")), 78)
    life.look()
    assert life.ready() == ("False", "NoSuchModule")
    assert life.condition("Stalled")["status"] == "True"


def test_all_nodes_must_run(life: Life) -> None:
    """A training of which one rank has no place is not said to train."""
    job = training(life, {"spec.training.nodes": 2})
    life.programs.start(job)
    other = life.programs.pending(job, **NO_GPU)
    other["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] = "1"
    life.cluster.changed(other)
    life.look()
    assert life.ready() == ("False", "Unschedulable")


def test_a_pod_on_a_lost_node_is_named(life: Life) -> None:
    """Nothing goes on before it has ended; what to do about it is said."""
    job = training(life)
    pod = life.programs.start(job)
    life.look()
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pod["status"]["hostIP"] = "10.1.2.3"
    life.cluster.changed(pod)
    life.wait(10)
    assert life.ready() == ("False", "PodTerminating")
    assert pod["metadata"]["name"] in life.condition()["message"]
    assert "10.1.2.3" in life.condition()["message"]


def test_of_several_nodes_the_lost_one_is_named(life: Life) -> None:
    """The first pod has ended because it lost the other: the Job waits for that one, and so it is said."""
    job = training(life, {"spec.training.nodes": 2})
    first = life.programs.start(job)
    other = life.programs.pending(job, **NO_GPU)
    other["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] = "1"
    other["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    other["status"] = {"phase": "Running", "hostIP": "10.1.2.3"}
    life.cluster.changed(other)
    first["status"]["phase"] = "Failed"
    life.cluster.changed(first)
    life.wait(10)
    assert life.ready() == ("False", "PodTerminating")
    assert other["metadata"]["name"] in life.condition()["message"]
    assert "out-of-service" in life.condition()["message"]


def test_containers_beside_ours_are_not_asked(life: Life) -> None:
    """A service mesh's container comes first in the list: the report is read from ours."""
    job = training(life)
    pod = life.programs.start(job)
    life.programs.finish(job)
    mesh = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 0, "message": "bye"}}}
    pod["status"]["containerStatuses"].insert(0, mesh)
    life.cluster.changed(pod)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert "lookup" not in life.programs.ran


# --- edits in the middle ---------------------------------------------------------------------------------------------


def restart_with(life: Life, **settings: Any) -> None:
    life.settings = Settings.model_validate({**SETTINGS, **settings})
    life.restart()
    life.look()


def test_what_waits_in_a_queue_keeps_its_place(life: Life) -> None:
    """Other settings, or another version of the operator, do not replace it; an edit of the job does."""
    job = training(life, {"spec.scheduling": {"queueName": "gpus"}})
    life.look()
    assert life.ready() == ("False", "Queued")
    restart_with(life, podDefaults={"train": {"labels": {"team": "a"}}})
    assert [item["metadata"]["uid"] for item in life.unfinished("train")] == [job["metadata"]["uid"]]
    life.cluster.edit("bot", lambda item: item["spec"]["scheduling"].update(queueName="more-gpus"))
    life.look()
    life.cluster.remove(job)
    life.wait(3)
    (second,) = life.unfinished("train")
    assert second["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "more-gpus"


def test_a_finished_job_is_not_suspended(life: Life) -> None:
    """There is nothing to suspend, and the model answers still."""
    life.apply()
    life.run()
    life.cluster.edit("bot", lambda item: item["spec"].update(suspend=True))
    life.look()
    assert life.ready() == ("True", "Succeeded")


def test_a_suspended_job_goes_on_with_the_image_that_it_began_with(life: Life) -> None:
    """An upgrade of Tunesmith while it is suspended changes nothing of what its stages make."""
    job = training(life)
    life.programs.start(job)
    life.cluster.edit("bot", lambda item: item["spec"].update(suspend=True))
    life.look()
    life.cluster.remove(job)
    restart_with(life, stageImage="registry.example/tunesmith-stages:2")
    life.cluster.edit("bot", lambda item: item["spec"].update(suspend=False))
    life.look()
    (second,) = life.unfinished("train")
    assert second["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":1")


def test_a_job_that_was_mended_takes_the_newer_image(life: Life) -> None:
    """After an upgrade, an edit of a job that stalled is made with the upgraded programs."""
    life.programs.failures["prepare"] = [failure(ExitCode.BAD_DATA, "MissingColumn")]
    life.apply()
    life.run()
    assert life.condition("Stalled")["status"] == "True"
    restart_with(life, stageImage="registry.example/tunesmith-stages:2")
    life.cluster.edit("bot", lambda item: item["spec"]["datasets"][0].update(columns={"prompt": "q", "response": "a"}))
    life.look()
    (job,) = life.unfinished("prepare")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":2")


def test_a_server_that_goes_while_a_training_runs(life: Life) -> None:
    """What runs goes on to its end, and is said to; what would follow does not begin."""
    job = training(life)
    life.programs.start(job)
    life.look()
    restart_with(life, servers=[{"name": "other", "url": "http://other:11434"}])
    assert life.ready() == ("False", "Training")
    assert life.condition("Stalled")["status"] == "False"
    life.programs.finish(job)
    life.look()
    assert life.ready() == ("False", "ServerNotAllowed")
    assert life.condition("Stalled")["status"] == "True"
    assert life.unfinished() == []


def test_a_reason_that_was_written_by_hand_blocks_nothing(life: Life) -> None:
    """A status that the API server would refuse to take back is not written back."""
    life.apply()
    life.run(until="prepare")

    def spoil(item: Object) -> None:
        for stage in item["status"]["stages"]:
            stage["reason"] = "not a word"

    life.cluster.edit("bot", spoil)
    life.look()
    FineTuneJobStatus.model_validate(life.cluster.status("bot"))
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_sources_are_looked_at_again_although_old_jobs_have_ended(life: Life) -> None:
    """A refresh believes no Job that fetched before, also if several of them have fetched parts."""
    life.apply()
    life.run()
    more = {"name": "more", "volume": {"path": "data/more.json"}}
    life.cluster.edit("bot", lambda item: item["spec"]["datasets"].append(more))
    life.run()
    before = life.programs.ran.count("fetch")
    life.cluster.edit("bot", lambda item: item["metadata"].update(annotations={"tunesmith.dev/refresh": "1"}))
    life.run()
    assert life.programs.ran.count("fetch") == before + 1
    assert life.ready() == ("True", "Succeeded")


def test_a_refresh_while_it_fetches_starts_no_second_one_beside_it(life: Life) -> None:
    """The Job that fetches is ended first: two never make the same."""
    life.apply()
    life.run(until="fetch")
    (job,) = life.unfinished("fetch")
    life.programs.start(job)
    life.look()
    life.cluster.edit("bot", lambda item: item["metadata"].update(annotations={"tunesmith.dev/refresh": "1"}))
    life.look()
    assert life.unfinished("fetch") == []
    life.cluster.remove(job)
    life.wait(3)
    assert len(life.unfinished("fetch")) == 1


def test_a_dry_run_of_what_trains_stops_the_training(life: Life) -> None:
    """`dryRun` set in the middle: nothing goes on behind a job that says that it is done."""
    job = training(life)
    life.programs.start(job)
    life.look()
    life.cluster.edit("bot", lambda item: item["spec"].update(dryRun=True))
    life.look()
    assert life.unfinished("train") == []
    assert life.ready() == ("True", "DryRunSucceeded")


def test_a_report_without_what_was_wanted_is_not_tried_for_ever(life: Life) -> None:
    """A program that ends well and reports something else is tried again, later and later."""
    training(life)
    for _ in range(30):
        for job in life.unfinished("train"):
            life.programs.end(job, life.programs.start(job), Report(), 0)
        life.wait(5)
    assert life.stage("train")["attempts"] <= 6
    assert life.stage("train")["reason"] == "ResultLost"


def test_a_job_that_waits_is_ended_by_an_obstacle(life: Life) -> None:
    """Stalled means that nothing goes on: a Pod without a place does not start an hour later."""
    job = training(life)
    life.programs.pending(job, **NO_GPU)
    life.look()
    restart_with(life, servers=[{"name": "other", "url": "http://other:11434"}])
    assert life.unfinished("train") == []
    assert life.ready() == ("False", "ServerNotAllowed")
