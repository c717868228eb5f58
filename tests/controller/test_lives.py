"""Whole lives of FineTuneJobs, on a cluster in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controller.conftest import SETTINGS, Life
from support.builders import REMOVED
from support.fake_cluster import copy_of, failure
from support.workloads import PENDING, workload
from tunesmith.api.settings import Settings
from tunesmith.api.status import FineTuneJobStatus
from tunesmith.kube.cluster import Object
from tunesmith_stages.contract import ExitCode

CHAIN = ["fetch", "prepare", "rehearse", "train", "convert", "quantize", "register"]


WORDS = {
    "fetch": ("Fetching", "Fetched"),
    "prepare": ("Preparing", "Prepared"),
    "rehearse": ("Rehearsing", "Rehearsed"),
    "train": ("Training", "Trained"),
    "convert": ("Converting", "Converted"),
    "quantize": ("Quantizing", "Quantized"),
    "register": ("Registering", "Registered"),
}
"""By stage: STATUS while its program runs, and the condition that says that it is done."""


def stages_of_jobs(life: Life) -> list[str]:
    return [job["metadata"]["labels"]["tunesmith.dev/stage"] for job in life.cluster.jobs()]


def test_a_job_goes_from_apply_to_an_answering_model(life: Life) -> None:
    """Every stage runs once, in order, and the status says that it succeeded, in the schema that the CRD has."""
    life.apply()
    life.run()
    assert life.programs.ran == CHAIN
    assert life.ready() == ("True", "Succeeded")
    assert life.condition("Stalled")["status"] == life.condition("Reconciling")["status"] == "False"
    status = life.cluster.status("bot")
    FineTuneJobStatus.model_validate(status)
    assert [item["state"] for item in status["stages"]] == ["Succeeded"] * 7
    assert status["artifacts"][0]["model"] == "support-bot:v1"
    assert not life.cluster.of_kind("ConfigMap"), "what only a running Job needs is removed"


def test_each_stage_says_what_it_does_and_that_it_is_done(life: Life) -> None:
    """STATUS while its program runs, then its condition; Events tell the same, but for the end of a rehearsal."""
    life.apply()
    for stage, (doing, done) in WORDS.items():
        life.look()
        (job,) = life.unfinished()
        assert job["metadata"]["labels"]["tunesmith.dev/stage"] == stage
        assert life.ready() == ("False", "Pending")
        life.programs.start(job)
        life.look()
        assert life.ready() == ("False", doing)
        assert life.condition(done)["status"] == "Unknown"
        life.programs.finish(job)
        life.look()
        assert (life.condition(done)["status"], life.condition(done)["reason"]) == ("True", "Done")
    assert life.ready() == ("True", "Succeeded")
    told = [word for words in WORDS.values() for word in words if word != "Rehearsed"]
    assert [(note.type, note.reason) for note in life.notes] == [("Normal", word) for word in [*told, "Succeeded"]]


def test_the_first_status_says_that_it_was_seen(life: Life) -> None:
    """The first write of the status holds observedGeneration and Reconciling=True, as kstatus wants it."""
    life.apply()
    life.look()
    assert life.cluster.status("bot")["observedGeneration"] == 1
    assert life.condition("Reconciling")["status"] == "True"
    assert len([call for call in life.cluster.calls if call[0] == "status"]) == 1


def test_nothing_happens_when_nothing_changed(life: Life) -> None:
    """A finished job is not planned again: no request is made, whatever wakes the operator."""
    life.apply()
    life.run()
    before = len(life.cluster.calls)
    life.restart()
    life.wait(10_000)
    assert life.cluster.calls[before:] == []


def test_what_an_earlier_version_finished_stays_as_it_is(life: Life) -> None:
    """A job that ended well and that today's operator would not take any more is left alone until it is edited."""
    life.apply()
    life.run()
    item = life.cluster.objects[("FineTuneJob", "default", "bot")]
    item["spec"]["pods"] = {"default": {"labels": {"plain": "key"}}}  # as if it had been taken
    before = life.cluster.status("bot")
    life.restart()
    life.look()
    assert life.cluster.status("bot") == before
    life.cluster.edit("bot", lambda it: it["spec"].update(suspend=True))
    life.look()
    assert life.ready() == ("False", "InvalidSpec")


def test_deleted_and_applied_again_it_trains_nothing(life: Life) -> None:
    """The results are found on the volume: no training Job is created the second time."""
    life.apply()
    life.run()
    life.cluster.remove(life.cluster.objects[("FineTuneJob", "default", "bot")])
    assert life.cluster.jobs() == []
    life.apply()
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert stages_of_jobs(life) == ["fetch", "prepare", "rehearse", "register"]
    assert life.stage("train")["cached"] is True


def test_another_quantization_runs_only_what_depends_on_it(life: Life) -> None:
    """A changed list of quantizations leads to quantize and register (behind its gate), and to nothing else."""
    life.apply()
    life.run()
    before = len(life.programs.ran)
    life.cluster.edit("bot", lambda item: item["spec"]["export"].update(quantizations=["Q4_K_M", "Q8_0"]))
    life.run()
    assert life.programs.ran[before:] == ["rehearse", "quantize", "register"]
    assert life.ready() == ("True", "Succeeded")


def test_the_old_value_put_back_finds_the_old_results(life: Life) -> None:
    """An edit that is taken back costs no second training."""
    life.apply()
    life.run()
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="0.5"))
    life.run()
    assert life.programs.ran.count("train") == 2
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="0.0001"))
    before = life.programs.ran.count("register")
    life.run()
    assert life.programs.ran.count("train") == 2
    assert life.programs.ran.count("register") == before + 1, "the server has the other model"
    assert life.ready() == ("True", "Succeeded")


def test_an_old_registration_is_not_believed(life: Life) -> None:
    """The old value put back while the new one is being served: that it was served once does not make the job ready."""
    life.apply()
    life.run()
    old = copy_of(life.cluster.objects[("FineTuneJob", "default", "bot")]["spec"])
    life.cluster.edit("bot", lambda item: item["spec"]["ollama"].update(parameters={"temperature": "0.7"}))
    life.run(until="register")
    (job,) = life.unfinished("register")
    life.programs.start(job)
    life.look()
    too_much = {"register": {"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "1Gi"}}}}
    life.cluster.edit("bot", lambda item: item.update(spec={**old, "pods": too_much}))
    life.look()
    life.cluster.remove(job)
    life.run()
    for _ in range(5):
        life.wait(30)
        assert life.ready() == ("False", "PodsInvalid")
    life.cluster.edit("bot", lambda item: item.update(spec=old))
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("register") == 2


def test_an_edit_stops_the_training_that_is_not_wanted_any_more(life: Life) -> None:
    """The Job of the old training is deleted, in the foreground, and one for the new training follows."""
    life.apply()
    life.run(until="train")
    (old,) = life.cluster.jobs("train")
    life.programs.start(old)
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="0.5"))
    life.look()
    assert ("delete", "Job", old["metadata"]["name"]) in life.cluster.calls
    life.cluster.remove(old)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


def test_after_an_edit_no_stage_is_said_to_be_done_that_is_to_be_done_again(life: Life) -> None:
    """Neither while it is not known yet whether it must be; if it comes to the same, what is there counts again."""
    later = ["train", "convert", "quantize", "register"]
    life.apply()
    life.run()
    old = copy_of(life.cluster.objects["FineTuneJob", "default", "bot"]["spec"])
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="0.5"))
    life.run(until="rehearse")
    assert [life.stage(name)["state"] for name in later] == ["Waiting", "Waiting", "Waiting", "Waiting"]
    life.run(until="train")
    assert [life.stage(name)["state"] for name in later] == ["Pending", "Waiting", "Waiting", "Waiting"]
    life.cluster.edit("bot", lambda item: item.update(spec=old))
    life.run()
    assert [life.stage(name)["state"] for name in later] == ["Succeeded"] * 4
    assert life.programs.ran == [*CHAIN, "rehearse", "rehearse"]


@pytest.mark.parametrize("lost", ["all", "stages"])
def test_a_lost_status_costs_looks_at_the_volume_only(life: Life, lost: str) -> None:
    """Whoever wipes the status of a finished job gets it back without another training."""
    life.apply()
    life.run()

    def wipe(item: dict[str, object]) -> None:
        status = item["status"]
        assert isinstance(status, dict)
        item["status"] = {} if lost == "all" else {**status, "stages": [], "conditions": []}

    life.cluster.edit("bot", wipe)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


def test_a_wrong_digest_in_the_status_does_not_train_again(life: Life) -> None:
    """A status edited by hand leads to InputLost, and that to a new look at the volume."""
    life.apply()
    life.run(until="convert")

    def tamper(item: dict[str, object]) -> None:
        stages = item["status"]["stages"]  # type: ignore[index]
        next(stage for stage in stages if stage["name"] == "train")["units"][0]["digest"] = "0" * 64

    life.cluster.edit("bot", tamper)
    life.programs.failures["convert"] = [failure(ExitCode.MISSING_INPUT, "InputLost")]
    life.look()
    for _ in range(20):
        life.run()
        life.clock.forward(20)
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


def test_an_operator_restarted_anywhere_makes_everything_once(life: Life) -> None:
    """A new process at every point of a life leads to the same Jobs, none of them twice."""
    life.apply()
    for _ in range(30):
        life.restart()
        life.look()
        jobs = life.unfinished()
        if not jobs:
            break
        life.restart()
        life.programs.finish(jobs[0])
    assert life.programs.ran == CHAIN
    assert len(life.cluster.jobs()) == len(CHAIN)


def test_an_operator_killed_between_the_job_and_the_status_adopts_the_job(life: Life) -> None:
    """A Job that the status does not know of is taken for its own, not created a second time."""
    life.apply()
    life.look()
    life.cluster.edit("bot", lambda item: item.update(status={}))
    life.restart()
    life.run()
    assert len(life.cluster.jobs("fetch")) == 1
    assert life.ready() == ("True", "Succeeded")


# --- failures --------------------------------------------------------------------------------------------------------


def test_bad_data_stalls_before_any_training(life: Life) -> None:
    """A failure that no second try can mend stalls the job with the program's own words; nothing later is created."""
    life.programs.failures["prepare"] = [
        failure(ExitCode.BAD_DATA, "MissingColumn", "faq.json row 3: no column `answr`", "It has: answer.")
    ]
    life.apply()
    life.run()
    assert life.ready() == ("False", "MissingColumn")
    assert life.condition("Stalled")["status"] == "True"
    assert "faq.json row 3" in life.condition()["message"]
    assert life.condition("Prepared")["status"] == "False"
    assert stages_of_jobs(life) == ["fetch", "prepare"]
    life.wait(100_000)
    assert stages_of_jobs(life) == ["fetch", "prepare"]


def test_a_stalled_job_goes_on_after_an_edit_or_when_asked_to(life: Life) -> None:
    """A new value of the annotation tunesmith.dev/retry tries the same again."""
    life.programs.failures["train"] = [failure(ExitCode.OUT_OF_MEMORY, "OutOfMemory")] * 2
    life.apply()
    life.run()
    assert life.ready() == ("False", "OutOfMemory")
    life.cluster.edit("bot", lambda item: item["metadata"].update(annotations={"tunesmith.dev/retry": "1"}))
    life.run()
    assert life.ready() == ("False", "OutOfMemory")
    life.cluster.edit("bot", lambda item: item["spec"].update(pods={"train": {"nodeSelector": {"gpu": "big"}}}))
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert len(life.cluster.jobs("train")) == 3


def test_what_may_pass_is_tried_again_later_and_later(life: Life) -> None:
    """A server that is down is waited for: Reconciling with the reason, never Stalled, tried after 10 s, 20 s, ..."""
    life.programs.failures["rehearse"] = [failure(ExitCode.UNAVAILABLE, "OllamaUnreachable")] * 3
    life.apply()
    life.run()
    assert life.ready() == ("False", "OllamaUnreachable")
    assert life.condition("Stalled")["status"] == "False"
    assert "tried again at" in life.condition()["message"]
    for number, delay in enumerate((10, 20, 40), start=1):
        life.wait(delay - 1)
        assert len(life.cluster.jobs("rehearse")) == number
        life.wait(1)
        assert len(life.cluster.jobs("rehearse")) == number + 1
        life.run()
    assert life.ready() == ("True", "Succeeded")


def test_an_evicted_training_is_started_again_at_once_and_not_counted(life: Life) -> None:
    """An interruption is nobody's fault: a new attempt follows, and no failure is on the record."""
    life.apply()
    life.run(until="train")
    (first,) = life.cluster.jobs("train")
    life.programs.start(first)
    life.wait(60)
    life.programs.evict(first)
    life.look()
    assert len(life.cluster.jobs("train")) == 2
    assert "failures" not in life.stage("train")
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_a_complete_job_whose_report_is_gone_is_looked_up(life: Life) -> None:
    """Its Pod is gone, so a Job that only looks tells what is on the volume; the training does not run again."""
    life.apply()
    life.run(until="train")
    (job,) = life.cluster.jobs("train")
    life.programs.finish(job)
    for pod in [pod for pod in life.cluster.of_kind("Pod") if pod["metadata"]["name"].startswith("bot-train")]:
        life.cluster.remove(pod)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1
    assert life.programs.ran.count("lookup") == 1


def test_a_job_deleted_by_hand_is_looked_up_and_then_made_again(life: Life) -> None:
    """A Job that vanished may have finished: that is looked up first; if not, it is made again."""
    life.apply()
    life.run(until="train")
    (job,) = life.cluster.jobs("train")
    life.cluster.remove(job)
    life.run()
    assert life.programs.ran.count("lookup") == 1
    assert life.programs.ran.count("train") == 1
    assert life.ready() == ("True", "Succeeded")


# --- waiting ---------------------------------------------------------------------------------------------------------

WAITING: dict[str, tuple[dict[str, Any], str, str]] = {
    "no GPU": (
        {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
                }
            ]
        },
        "Unschedulable",
        "Insufficient nvidia.com/gpu",
    ),
    "no claim": (
        {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": 'persistentvolumeclaim "tunesmith" not found',
                }
            ]
        },
        "VolumeClaimNotFound",
        "tunesmith",
    ),
    "no image": (
        {
            "containerStatuses": [
                {
                    "name": "stage",
                    "image": "stages:1",
                    "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
                }
            ]
        },
        "ImagePullBackOff",
        "stages:1",
    ),
}


@pytest.mark.parametrize("case", WAITING)
def test_what_holds_a_pod_up_is_said_and_clears_itself(life: Life, case: str) -> None:
    """A job whose Pod cannot run is Reconciling with the cluster's own words, and goes on by itself."""
    status, reason, words = WAITING[case]
    life.apply()
    life.look()
    (job,) = life.cluster.jobs("fetch")
    pod = life.programs.pending(job, **status)
    life.look()
    assert life.ready() == ("False", reason)
    assert words in life.condition()["message"]
    assert life.condition("Stalled")["status"] == "False"
    life.cluster.remove(pod)
    life.run()
    assert life.ready() == ("True", "Succeeded")


def held_up(life: Life, stage: str, **status: Any) -> Object:
    """Have the Pod of a stage's Job held up; return the Job."""
    life.run(until=stage)
    (job,) = life.unfinished(stage)
    life.programs.pending(job, **status)
    life.look()
    return job


def test_an_image_that_cannot_be_pulled_is_mended_by_the_administrator(life: Life) -> None:
    """With another image in the settings the Job that waits for the first one is replaced by one that can run."""
    life.apply()
    first = held_up(life, "fetch", **WAITING["no image"][0])
    life.wait(60)
    assert [job["metadata"]["name"] for job in life.cluster.jobs("fetch")] == [first["metadata"]["name"]]
    life.settings = Settings.model_validate({**SETTINGS, "stageImage": "registry.example/tunesmith-stages:2"})
    life.restart()
    life.look()
    life.cluster.remove(first)
    life.wait(5)
    (second,) = life.cluster.jobs("fetch")
    assert second["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":2")
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.cluster.status("bot")["image"].endswith(":2")
    assert life.stage("fetch")["attempts"] == 2
    assert "failures" not in life.stage("fetch")


def test_a_training_that_fits_on_no_node_is_mended_by_an_edit(life: Life) -> None:
    """Other resources for a Pod that cannot be scheduled: its Job is replaced, and nothing before it runs again."""
    life.apply()
    first = held_up(life, "train", **WAITING["no GPU"][0])
    fetched = life.cluster.jobs("fetch")[0]["metadata"]["uid"]
    small = {"train": {"resources": {"requests": {"memory": "1Gi"}}}}
    life.cluster.edit("bot", lambda item: item["spec"].update(pods=small))
    life.look()
    assert life.unfinished("train") == [], "no second one before the first is gone"
    life.cluster.remove(first)
    life.wait(5)
    (second,) = life.unfinished("train")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert second["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"] == "1Gi"
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert [job["metadata"]["uid"] for job in life.cluster.jobs("fetch")] == [fetched]


REFUSED = {
    "quota": ('Error creating: pods "x" is forbidden: exceeded quota: team', "QuotaExceeded"),
    "pod security": ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "PodSecurityRefused"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_why_no_pod_is_created_is_read_from_events(life: Life, case: str) -> None:
    """Quotas and Pod Security show in Events of the Job alone."""
    message, reason = REFUSED[case]
    life.apply()
    life.look()
    (job,) = life.cluster.jobs("fetch")
    life.cluster.put_new(
        {
            "kind": "Event",
            "metadata": {"name": "e1", "namespace": "default"},
            "involvedObject": {"uid": job["metadata"]["uid"], "name": job["metadata"]["name"]},
            "reason": "FailedCreate",
            "message": message,
        }
    )
    life.wait(10)
    assert life.ready() == ("False", reason)
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_a_job_of_which_nothing_is_heard_is_looked_at(life: Life) -> None:
    """What Kubernetes says of a Job without a Pod may come before its FineTuneJob is looked at, and be no news."""
    life.apply()
    (key,) = life.cache.finetunejobs
    wake = asyncio.run(life.reconciler.reconcile(key))
    assert life.cluster.jobs("fetch")
    assert wake is not None
    assert 3 < wake < 5


def test_suspend_stops_what_runs_and_resume_goes_on(life: Life) -> None:
    """`suspend` deletes the running Job and creates none; taken back, the stage starts again."""
    life.apply()
    life.run(until="train")
    (job,) = life.cluster.jobs("train")
    life.programs.start(job)
    life.cluster.edit("bot", lambda item: item["spec"].update(suspend=True))
    life.look()
    assert life.ready() == ("False", "Suspended")
    life.cluster.remove(job)
    life.wait(1000)
    assert life.unfinished() == []
    life.cluster.edit("bot", lambda item: item["spec"].update(suspend=False))
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran == CHAIN
    assert [note for note in life.notes if note.type == "Warning"] == [], "it was asked for"


def test_a_stage_waits_for_the_job_before_it_to_end(life: Life) -> None:
    """Resumed while the training still saves its checkpoint: it is `Stopping`, and no second Job is beside it."""
    life.apply()
    life.run(until="train")
    (job,) = life.cluster.jobs("train")
    life.programs.start(job)
    life.look()
    life.cluster.edit("bot", lambda item: item["spec"].update(suspend=True))
    life.look()
    life.cluster.edit("bot", lambda item: item["spec"].update(suspend=False))
    life.look()
    assert life.ready() == ("False", "Stopping")
    life.wait(300)
    assert life.ready() == ("False", "Stopping")
    assert life.cluster.jobs("train") == [job]
    assert [note.type for note in life.notes if note.reason == "Stopping"] == ["Normal"], "it was asked for"
    life.cluster.remove(job)
    life.wait(2)
    assert len(life.unfinished("train")) == 1


def test_a_queued_training_is_left_alone(life: Life) -> None:
    """A Job that a queue has not admitted is Queued, and the operator does not touch it."""
    life.apply({"spec.scheduling": {"queueName": "team-a"}})
    life.run(until="train")
    (job,) = life.cluster.jobs("train")
    assert job["spec"]["suspend"] is True
    life.cluster.put_new(workload(job, PENDING))
    life.wait(3600)
    assert life.ready() == ("False", "Queued")
    assert not [call for call in life.cluster.calls if call[0] == "delete" and call[1] == "Job"]


def test_dry_run_ends_after_the_rehearsal(life: Life) -> None:
    """`dryRun` proves everything that can be proven before the training and ends Ready; without it the job goes on."""
    life.apply({"spec.dryRun": True})
    life.run()
    assert life.ready() == ("True", "DryRunSucceeded")
    assert life.programs.ran == CHAIN[:3]
    life.cluster.edit("bot", lambda item: item["spec"].update(dryRun=False))
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_two_jobs_for_one_model_name_do_not_fight(life: Life) -> None:
    """The older one keeps the name; the younger one says so, and goes on when the older one is deleted."""
    life.apply()
    life.look()
    life.clock.forward(5)
    life.apply(name="late")
    life.run()
    assert life.ready("late") == ("False", "ModelNameTaken")
    assert "FineTuneJob bot" in life.condition(name="late")["message"]
    life.cluster.remove(life.cluster.objects[("FineTuneJob", "default", "bot")])
    life.run()
    assert life.ready("late") == ("True", "Succeeded")


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ([], "ServerNotAllowed"),
        ([{"name": "main", "url": "http://o:1", "allowedNamespaces": ["team-b"]}], "ServerNotAllowed"),
        ([{"name": "main", "url": "http://o:1", "modelNamePrefix": "{namespace}/"}], "ModelNameNotAllowed"),
    ],
)
def test_only_servers_that_the_administrator_allows_are_used(servers: list[object], reason: str) -> None:
    """A server that is not defined, or not for this namespace, or a name without its prefix: nothing is started."""
    life = Life({"servers": servers})
    life.apply()
    life.look()
    assert life.ready() == ("False", reason)
    assert life.condition("Stalled")["status"] == "True"
    assert life.cluster.jobs() == []


def test_exec_without_a_pod_is_refused(life: Life) -> None:
    """`method: Exec` needs a Pod that the administrator has named."""
    life.apply({"spec.ollama.method": "Exec"})
    life.look()
    assert life.ready() == ("False", "ExecNotConfigured")


def test_the_same_work_of_two_jobs_is_done_once(life: Life) -> None:
    """A second job with the same base and data waits for the first one's Job and uses its result."""
    life.apply()
    life.run(until="train")
    life.apply({"spec.ollama.model": "other"}, name="second")
    for _ in range(10):
        life.look()
        for job in life.unfinished():
            if job["metadata"]["labels"]["tunesmith.dev/stage"] != "train":
                life.programs.finish(job)
    assert len(life.cluster.jobs("train")) == 1
    assert life.ready("second") == ("False", "MadeElsewhere")
    life.run()
    life.wait(30)
    life.run()
    assert life.ready("second") == ("True", "Succeeded")
    assert life.ready() == ("True", "Succeeded")


def test_a_new_job_waits_for_the_pods_of_a_deleted_one(life: Life) -> None:
    """Kubernetes removes a Job before its Pods have ended: until they have, nothing else writes where they write."""
    life.apply()
    life.run(until="train")
    (job,) = life.unfinished("train")
    pod = life.programs.start(job)
    ftj = life.cluster.of_kind("FineTuneJob")[0]
    for item in (job, ftj):
        life.hear("DELETED", item)
        life.cluster.objects = {key: value for key, value in life.cluster.objects.items() if value is not item}
    life.apply()
    life.run()
    assert life.ready() == ("False", "MadeElsewhere")
    life.cluster.remove(pod)
    life.wait(11)
    assert life.unfinished("train")


@pytest.mark.parametrize(
    ("model", "quantizations"),
    [("bot:v1-q8_0", ["Q4_K_M"]), ("library/bot:v1", ["F16"]), ("registry.ollama.ai/library/BOT:v1", ["Q4_K_M"])],
)
def test_a_name_that_another_job_serves_by_another_spelling(life: Life, model: str, quantizations: list[str]) -> None:
    """The further names of each quantization count, and all that the server takes for the same name."""
    life.apply({"spec.ollama.model": "bot:v1", "spec.export": {"quantizations": ["Q4_K_M", "Q8_0"]}})
    life.clock.forward(2)
    change = {"spec.ollama.model": model, "spec.export": {"quantizations": quantizations}}
    life.apply(change, name="second")
    life.look()
    assert life.ready("second") == ("False", "ModelNameTaken")


def test_where_many_jobs_wait_for_pods_events_are_read_less_often(life: Life) -> None:
    """Four times a second for all of them, whatever their number: the API server reads all Events for each."""
    for number in range(80):
        own = {"spec.model": {"volume": {"path": f"models/{number}"}}, "spec.ollama.model": f"bot:{number}"}
        data = {"spec.datasets": [{"name": "faq", "volume": {"path": f"data/{number}.json"}}]}
        life.apply({**own, **data}, name=f"bot{number}")
    life.look()
    read = []
    for seconds in (4, 15, 2, 15, 6):
        life.wait(seconds)
        read.append(life.cluster.finds.count("Event"))
    assert read == [0, 0, 80, 80, 160]


def test_progress_comes_from_the_running_programs_log(life: Life) -> None:
    """Percent, loss and the time that is left are read from the last lines that the program wrote."""
    life.apply()
    life.run(until="train")
    (job,) = life.cluster.jobs("train")
    pod = life.programs.start(job)
    life.cluster.logs[pod["metadata"]["name"]] = (
        '{"stage": "train", "unit": "train", "note": "loading the base"}\n'
        '{"stage": "train", "unit": "train", "done": 37, "total": 100, "of": "steps", '
        '"metrics": {"loss": 1.25, "etaSeconds": 3700, "checkpointSeconds": 41.2}}\n'
    )
    life.look()
    life.wait(60)
    status = life.cluster.status("bot")
    assert life.ready() == ("False", "Training")
    assert status["progress"] | {"text": "37 %", "loss": "1.25", "eta": "1h01m", "stage": "train"} == status["progress"]
    assert life.stage("train")["saveSeconds"] == 42
    life.programs.evict(job)
    life.look()
    again = life.cluster.jobs("train")[-1]
    assert again["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 2 * 42 + 30


def test_a_status_that_another_operator_wrote_is_read_before_anything_is_created(life: Life) -> None:
    """Two operators at once: the one that is late plans again, and never creates a second Job of an attempt."""
    other = Life()
    life.apply()
    life.cluster.listener = lambda _kind, _item: None  # this one hears nothing from now on
    other.cluster, other.clock = life.cluster, life.clock
    other.restart()
    other.look()
    life.cluster.listener = lambda _kind, _item: None
    life.look()
    assert len(life.cluster.jobs("fetch")) == 1
    assert life.cluster.status("bot")["stages"][0]["attempts"] == 1


def test_a_gguf_is_quantized_and_served_without_a_training(life: Life) -> None:
    """A base that is a GGUF already goes from `fetch` straight to `quantize`; what is left out counts as done."""
    life.apply({"spec.model": {"gguf": {"path": "m.gguf"}}, "spec.datasets": REMOVED, "spec.training": REMOVED})
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran == ["fetch", "quantize", "register"]
    FineTuneJobStatus.model_validate(life.cluster.status("bot"))
    assert (life.condition("Trained")["reason"], life.condition("Quantized")["reason"]) == ("NotNeeded", "Done")


GGUF = {"spec.model": {"gguf": {"path": "m.gguf"}}, "spec.datasets": REMOVED, "spec.training": REMOVED}


def test_dry_run_of_a_gguf_ends_after_its_fetch(life: Life) -> None:
    """There is no rehearsal of what is not trained, but nothing is proven before the file was read."""
    life.apply({**GGUF, "spec.dryRun": True})
    life.look()
    assert life.ready() == ("False", "Pending")
    life.run()
    assert life.ready() == ("True", "DryRunSucceeded")
    assert life.programs.ran == ["fetch"]
    assert stages_of_jobs(life) == ["fetch"]


def test_a_lost_result_does_not_move_the_job_to_another_commit(life: Life) -> None:
    """What is fetched again is what the job began with: a branch that has moved on since is not followed."""
    life.programs.versions = {"base": "a" * 64}
    life.apply({"spec.model": {"huggingFace": {"repo": "acme/base"}}})
    life.run(until="convert")
    life.programs.failures["convert"] = [failure(ExitCode.MISSING_INPUT, "InputLost")]
    life.look()
    life.programs.finish(life.unfinished("convert")[0])
    life.look()
    (again,) = life.unfinished("fetch")
    assert {unit.name: unit.params["refresh"] for unit in life.programs.config(again).units}["base"] == "a" * 64
