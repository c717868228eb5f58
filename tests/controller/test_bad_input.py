"""What others do to a job and its Jobs, and clocks that are wrong: nothing is lost, and nothing is made twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest

from controller.conftest import Life
from support.fake_cluster import copy_of, failure
from tunesmith.kube.cache import Key
from tunesmith.kube.cluster import Object
from tunesmith_stages.contract import ExitCode, StageConfig

DAY = 86_400


def training(life: Life, **spec: object) -> Object:
    """Have a job come as far as its training, whose program runs; return the training's Job."""
    life.apply({f"spec.{name}": value for name, value in spec.items()})
    life.run(until="train")
    (job,) = life.unfinished("train")
    life.programs.start(job)
    life.look()
    assert life.ready() == ("False", "Training")
    return job


# --- others ----------------------------------------------------------------------------------------------------------

TAKEN: dict[str, Callable[[Object], object]] = {
    "all labels": lambda meta: meta.update(labels={"app": "theirs"}),
    "the stage": lambda meta: meta["labels"].pop("tunesmith.dev/stage"),
    "the attempt": lambda meta: meta["labels"].update({"tunesmith.dev/attempt": "7"}),
    "all annotations": lambda meta: meta.update(annotations={}),
}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("case", TAKEN)
def test_labels_that_somebody_takes_lose_nothing(life: Life, case: str, restarted: bool) -> None:
    """A Job is known by its owner and by what its Pods are made from: it goes on, and its result counts."""
    job = training(life)
    TAKEN[case](job["metadata"])
    gone = "tunesmith.dev/job-uid" not in job["metadata"]["labels"]
    life.hear("DELETED" if gone else "MODIFIED", copy_of(job))  # to a watch of those with the label
    if restarted:
        life.restart()
        life.cache.drop_job(job)  # its list has them by the label, too
    life.look()
    assert life.ready() == ("False", "Training")
    assert life.wakes[Key("default", "bot")] == (15 if gone else None)
    life.cluster.listener = lambda _kind, _item: None  # it is told of nothing: it asks
    life.programs.finish(job)
    life.cluster.listener = life.hear
    for pod in life.cluster.of_kind("Pod"):
        life.hear("MODIFIED", pod)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1
    assert "lookup" not in life.programs.ran


@pytest.mark.parametrize("ended", [False, True])
def test_an_unlabelled_job_that_is_gone_is_not_waited_for(life: Life, ended: bool) -> None:
    """No watch tells of the end of a Job without our label: it is asked for, also if it had ended before."""
    job = training(life)
    if ended:
        job["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    job["metadata"]["labels"] = {}
    job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    life.hear("DELETED", copy_of(job))
    life.look()
    life.cluster.listener = lambda _kind, _item: None
    life.cluster.remove(job)
    life.cluster.listener = life.hear
    life.hear("DELETED", {**copy_of(job), "kind": "Pod", "metadata": {**job["metadata"], "name": "none"}})
    for pod in list(life.cache._pods.items.values()):
        life.cache.drop_pod(pod)
    life.wait(15)
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_an_unlabelled_look_up_that_is_gone_is_made_again(life: Life) -> None:
    """One that came to nothing is deleted and made anew, although no watch tells that it is gone."""
    life.apply()
    life.run(until="train")
    life.cluster.remove(life.unfinished("train")[0])
    life.look()
    (lookup,) = life.unfinished("train")
    life.programs.end(lookup, life.programs.start(lookup), None, 1)
    lookup["metadata"]["labels"] = {}
    life.hear("DELETED", copy_of(lookup))
    while "deletionTimestamp" not in lookup["metadata"]:
        life.wait(15)
    life.cluster.listener = lambda _kind, _item: None
    life.cluster.remove(lookup)
    life.cluster.listener = life.hear
    life.wait(60)
    (again,) = life.unfinished("train")
    assert again["metadata"]["name"] == lookup["metadata"]["name"]


def test_a_job_that_has_ended_counts_although_it_is_being_deleted(life: Life) -> None:
    """Deleted in the foreground just when it was complete, a Job is still there, and so is its report."""
    job = training(life)
    job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    life.programs.finish(job)
    life.look()
    life.cluster.remove(job)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


def test_nothing_runs_beside_a_job_that_another_controller_took(life: Life) -> None:
    """It is not ours any more, but its Pods work on the same: only when they have ended is the result looked for."""
    job = training(life)
    job["metadata"]["ownerReferences"] = []
    life.cluster.changed(job)
    for _ in range(3):
        life.wait(20)
        for other in life.unfinished("train"):
            if other is not job:
                assert other["metadata"]["annotations"].get("tunesmith.dev/lookup") == "true"
                life.programs.finish(other)
    assert life.ready() == ("False", "MadeElsewhere")
    life.programs.finish(job)
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_a_namespace_that_is_deleted_makes_no_noise(life: Life) -> None:
    """What the API server refuses there is tried every 15 s, is told once, is no error, and ends with the namespace."""
    training(life)
    life.cluster.terminating.add("default")
    for job in life.cluster.jobs():
        life.cluster.remove(job)
    key = Key("default", "bot")
    for _ in range(2):  # it learns that the Job is gone, and that nothing can be created
        asyncio.run(life.reconciler.reconcile(key))
    assert "being terminated" in life.condition()["message"]
    written = life.cluster.version
    for _ in range(10):
        life.clock.forward(15)
        assert asyncio.run(life.reconciler.reconcile(key)) == 15
    assert life.cluster.version == written
    life.cluster.remove(life.cluster.objects["FineTuneJob", "default", "bot"])
    before = len(life.cluster.calls)
    life.wait(600)
    assert life.cluster.calls[before:] == []


def _set_training(values: dict[str, str], item: Object) -> None:
    item["spec"]["training"].update(values)


def test_a_hundred_edits_leave_one_job(life: Life) -> None:
    """Each edit stops what is not wanted any more; only one Job is there at a time, and the last edit is made."""
    training(life)
    for number in range(100):
        rate = {"learningRate": f"{number + 1}e-5"}
        life.cluster.edit("bot", partial(_set_training, rate))
        life.look()
        assert len(life.unfinished()) <= 1
        if number % 7 == 0:  # the garbage collector comes now and then
            for job in [job for job in life.cluster.jobs() if job["metadata"].get("deletionTimestamp")]:
                life.cluster.remove(job)
    for job in [job for job in life.cluster.jobs() if job["metadata"].get("deletionTimestamp")]:
        life.cluster.remove(job)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1
    assert life.cluster.status("bot")["observedGeneration"] == 101
    assert life.cluster.of_kind("ConfigMap") == []


# --- clocks ----------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_put_back_delays_no_retry(life: Life) -> None:
    """When the operator's clock was a day ahead, the next try is not a day away."""
    job = training(life)
    life.programs.failures["train"] = [failure(ExitCode.UNAVAILABLE, "Busy")]
    life.clock.forward(DAY)
    life.programs.finish(job)
    life.look()
    life.clock.forward(-DAY)
    life.wait(300)
    assert len(life.unfinished("train")) == 1


def test_a_clock_that_is_put_back_stops_no_progress(life: Life) -> None:
    """The log of what runs is read on."""
    job = training(life)
    (pod,) = (pod for pod in life.cluster.of_kind("Pod") if pod["metadata"]["name"].startswith(job["metadata"]["name"]))
    life.clock.forward(DAY)
    life.look()
    life.clock.forward(-DAY)
    told = '{"stage": "train", "done": 37, "total": 100}'
    life.cluster.logs[pod["metadata"]["name"]] = told
    life.wait(10)
    life.wait(10)
    assert life.cluster.status("bot")["progress"].get("text") == "37 %"


def test_an_operator_whose_clock_is_behind_reads_events(life: Life) -> None:
    """Why a Job has no Pod is told although the Job was created in the operator's future."""
    life.apply()
    life.look()
    (job,) = life.cluster.jobs("fetch")
    said = {"reason": "FailedCreate", "message": "pods are forbidden: exceeded quota: team"}
    about = {"uid": job["metadata"]["uid"], "name": job["metadata"]["name"]}
    meta = {"name": "e1", "namespace": "default"}
    life.cluster.put_new({"kind": "Event", "metadata": meta, "involvedObject": about, **said})
    life.wait(-DAY)
    assert life.ready() == ("False", "QuotaExceeded")


@pytest.mark.parametrize("skew", [-DAY, DAY])
def test_the_clock_of_a_node_uses_up_no_deadline(life: Life, skew: int) -> None:
    """A training of ten minutes on a node whose clock is wrong by a day is not charged for that day."""
    life.programs.skew = timedelta(seconds=skew)
    job = training(life, activeDeadlineSeconds=3600)
    life.wait(600)
    life.cluster.remove(job)  # so nobody tells when it ended
    life.look()
    assert life.stage("train").get("elapsedSeconds", 0) <= 600
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_what_is_not_wanted_any_more_is_no_reason_to_wait(life: Life) -> None:
    """The report of a training is lost, and another training is asked for: what holds up the next stage is told."""
    life.programs.finish(training(life))
    for pod in life.cluster.of_kind("Pod"):
        life.cluster.remove(pod)
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="3e-3"))
    life.look()
    (job,) = life.unfinished("rehearse")
    place = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    life.programs.pending(job, conditions=[place])
    life.look()
    assert life.ready() == ("False", "Unschedulable")


# --- texts -----------------------------------------------------------------------------------------------------------


TEXT = "Zürich \u202eעברית 中文 👩\u200d🔬 e\u0301"
"""It runs both ways, and its last letter is of two signs: who tidies it makes another text of it."""
IN_ANY_SCRIPT = {
    "spec.model": {"volume": {"path": f"models/{TEXT}"}},
    "spec.datasets.0": {
        "name": "faq",
        "volume": {"path": f"data/{TEXT}.json"},
        "format": "Alpaca",
        "columns": {"prompt": TEXT, "response": f"{TEXT}?"},
    },
    "spec.datasets.+": {
        "name": "few",
        "inline": [{f"{TEXT}!": TEXT}],
        "format": "Text",
        "columns": {"text": f"{TEXT}!"},
    },
    "spec.ollama.system": TEXT,
    "spec.ollama.license": f"{TEXT} MIT",
    "spec.ollama.parameters": {"stop": [TEXT, f"{TEXT}."]},
    "spec.ollama.smokeTests": [{"prompt": f"{TEXT}?", "expect": TEXT}],
}


def config_of(life: Life, stage: str) -> StageConfig:
    """Have a job come as far as a stage; return what that stage's program is asked for."""
    life.run(until=stage)
    (job,) = life.unfinished(stage)
    return life.programs.config(job)


def columns(**named: str) -> dict[str, str | None]:
    """Return all columns of a dataset as `prepare` is told of them."""
    names = ("prompt", "query", "response", "system", "history", "messages", "tools", "text")
    return {name: named.get(name) for name in names}


def test_texts_in_any_script_arrive_as_they_are(life: Life) -> None:
    """Prompts, paths, columns, rows and parameters may hold any text; the programs are asked for exactly that."""
    life.apply(IN_ANY_SCRIPT)
    sources = {unit.name: unit.params["source"] for unit in config_of(life, "fetch").units}
    assert sources["base"] == {"volume": {"path": f"models/{TEXT}"}}
    assert sources["dataset:faq"] == {"volume": {"path": f"data/{TEXT}.json"}}
    assert json.loads(sources["dataset:few"]["inline"]) == {f"{TEXT}!": TEXT}
    (prepared,) = config_of(life, "prepare").units
    assert [item["columns"] for item in prepared.params["datasets"]] == [
        columns(prompt=TEXT, response=f"{TEXT}?"),
        columns(text=f"{TEXT}!"),
    ]
    served = {"system": TEXT, "license": f"{TEXT} MIT", "parameters": {"stop": [TEXT, f"{TEXT}."]}}
    (rehearsed,) = config_of(life, "rehearse").units
    assert {name: rehearsed.params[name] for name in served} == served
    asked = [{"prompt": f"{TEXT}?", "expect": TEXT}]
    assert config_of(life, "train").runtime["smokeTests"] == asked
    register = config_of(life, "register")
    (registered,) = register.units
    assert {name: registered.params[name] for name in served} == served
    assert register.runtime["smokeTests"] == asked
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_a_failure_told_in_any_script_can_be_written(life: Life) -> None:
    """However long the sentence of a program is, in whatever script: the status has its beginning as it is."""
    life.apply()
    life.programs.failures["register"] = [failure(ExitCode.BAD_DATA, "BadAnswer", message=TEXT * 400)]
    life.run()
    assert life.ready() == ("False", "BadAnswer")
    assert TEXT in life.condition()["message"]
    assert len(life.condition()["message"]) <= 4096


def test_what_no_config_map_can_hold_is_refused(life: Life) -> None:
    """Rows in the job's own file that are larger than a ConfigMap stall it before anything begins, with what to do."""
    rows = [{"instruction": "?" * 2000, "output": "!" * 2000} for _ in range(350)]
    life.apply({"spec.datasets.0": {"name": "faq", "inline": rows}})
    life.look()
    assert life.ready() == ("False", "InputTooLarge")
    assert life.condition("Stalled")["status"] == "True"
    assert life.cluster.jobs() == []
    before = len(life.cluster.calls)
    life.wait(600)
    assert life.cluster.calls[before:] == []
    life.cluster.edit("bot", lambda item: item["spec"]["datasets"][0].update(inline=rows[:3]))
    life.run()
    assert life.ready() == ("True", "Succeeded")
