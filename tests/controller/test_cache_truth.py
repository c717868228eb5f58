"""What the operator believes of the cluster, when it hears late, in another order, twice, or lies."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from controller import conftest
from controller.conftest import Life
from support.fake_cluster import failure
from tunesmith.kube.cache import Cache, Key
from tunesmith.kube.cluster import FINETUNEJOBS, JOBS, PODS, ApiError, Listing, Object
from tunesmith.kube.items import News
from tunesmith_stages.contract import ExitCode, Report, UnitReport

BOT = Key("default", "bot")
LATE = Key("default", "late")


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """Return the FineTuneJobs that the cache has woken, of a Life that is made after this."""
    found: list[Key] = []
    monkeypatch.setattr(conftest, "Cache", partial(Cache, found.append))
    return found


@contextmanager
def deaf(life: Life, *kinds: str, later: bool = False) -> Iterator[None]:
    """Have the operator hear nothing of these kinds; `later`: it hears all of it when the block ends."""
    hear, missed = life.cluster.listener, []

    def listen(what: str, item: Object) -> None:
        if item["kind"] in kinds:
            missed.append((what, item))
        else:
            hear(what, item)

    life.cluster.listener = listen
    yield
    life.cluster.listener = hear
    for event in missed if later else ():
        hear(*event)


def resync(life: Life) -> set[Key]:
    """Have the cache take over full lists, as the operator does every few minutes."""
    return take(life, asyncio.run(lists(life)))


async def lists(life: Life) -> list[Listing[News]]:
    cache = life.cache
    read = {FINETUNEJOBS: cache.read_finetunejob, JOBS: cache.read_job, PODS: cache.read_pod}
    return [await life.cluster.list_all(resource, None, reading) for resource, reading in read.items()]


def take(life: Life, listings: list[Listing[News]]) -> set[Key]:
    finetunejobs, jobs, pods = listings
    changed = life.cache.replace_finetunejobs(finetunejobs)
    return changed | life.cache.replace_jobs(jobs) | life.cache.replace_pods(pods)


def newest(life: Life, stage: str) -> Object:
    return life.cluster.jobs(stage)[-1]


def pods_of(life: Life, job: Object) -> list[Object]:
    return [pod for pod in life.cluster.of_kind("Pod") if pod["metadata"]["name"].startswith(job["metadata"]["name"])]


def finetunejob(life: Life, name: str = "bot", namespace: str = "default") -> Object:
    return life.cluster.objects[("FineTuneJob", namespace, name)]


def config_maps(life: Life) -> list[str]:
    return [item["metadata"]["name"] for item in life.cluster.of_kind("ConfigMap")]


def requests(life: Life, verb: str, kind: str) -> list[str]:
    return [name for done, what, name in life.cluster.calls if (done, what) == (verb, kind)]


# --- names in Ollama -------------------------------------------------------------------------------------------------


def rename(life: Life, name: str, model: str, namespace: str = "default") -> None:
    life.cluster.edit(name, lambda item: item["spec"]["ollama"].update(model=model), namespace)


def in_namespace(life: Life, name: str, namespace: str) -> str:
    conditions = life.cluster.status(name, namespace)["conditions"]
    return str(next(item["reason"] for item in conditions if item["type"] == "Ready"))


def test_an_older_job_does_not_take_the_name_of_one_that_serves_it(life: Life) -> None:
    """Whoever edits an old job cannot replace a model that another team's job serves, not even while it is remade."""
    life.apply({"spec.ollama.model": "mine:v1"}, name="old", namespace="team-b")
    life.run()
    life.clock.forward(100)
    life.apply()
    life.run()
    rename(life, "old", "support-bot:v1", "team-b")
    life.run()
    assert in_namespace(life, "old", "team-b") == "ModelNameTaken"
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="0.5"))
    life.run(until="train")
    assert in_namespace(life, "old", "team-b") == "ModelNameTaken"
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert in_namespace(life, "old", "team-b") == "ModelNameTaken"


def test_a_job_that_may_not_use_a_server_keeps_no_name_there() -> None:
    """A namespace that a server is not for cannot block the names of those that it is for."""
    servers = [{"name": "main", "url": "http://o:1", "allowedNamespaces": ["default"]}]
    life = Life({"servers": servers})
    life.apply(name="squatter", namespace="elsewhere")
    life.look()
    life.clock.forward(5)
    life.apply()
    life.run()
    assert in_namespace(life, "squatter", "elsewhere") == "ServerNotAllowed"
    assert life.ready() == ("True", "Succeeded")


GIVEN_UP: dict[str, Callable[[Life], object]] = {
    "renamed": lambda life: rename(life, "bot", "other:v1"),
    "served elsewhere": lambda life: life.cluster.edit(
        "bot", lambda item: item["spec"]["ollama"].update(servers=["second"])
    ),
    "deleted": lambda life: life.cluster.remove(finetunejob(life)),
}


@pytest.mark.parametrize("missed", [False, True], ids=["heard", "missed by the watch"])
@pytest.mark.parametrize("case", GIVEN_UP)
def test_who_waits_for_a_name_is_woken_when_it_is_given_up(woken: list[Key], case: str, missed: bool) -> None:
    """The job that waits is looked at again at once, also if only the lists of a resync tell of it."""
    life = Life()
    life.apply()
    life.clock.forward(5)
    life.apply(name="late")
    life.run()
    assert life.ready("late") == ("False", "ModelNameTaken")
    woken.clear()
    if missed:
        with deaf(life, "FineTuneJob"):
            GIVEN_UP[case](life)
        resync(life)
    else:
        GIVEN_UP[case](life)
    assert LATE in woken
    life.run()
    assert life.ready("late") == ("True", "Succeeded")


# --- whose Job is it -------------------------------------------------------------------------------------------------


def forged(life: Life, job: Object, **meta: Any) -> Object:
    """Create a Job that says that it is a later attempt of `job` and that it has made something else."""
    labels = {**job["metadata"]["labels"], "tunesmith.dev/attempt": "7"}
    copied = {**copy.deepcopy(job), "metadata": {**copy.deepcopy(job["metadata"]), "labels": labels, **meta}}
    made = life.cluster.put_new({**copied, "status": {}})
    there = life.cluster.objects[("Job", made["metadata"]["namespace"], made["metadata"]["name"])]
    key = job["metadata"]["annotations"]["tunesmith.dev/keys"][:16]
    life.programs.end(there, life.programs.pending(there), Report(units=(UnitReport(key, "ab" * 32, 1),)), 0)
    return there


FORGED: dict[str, dict[str, Any]] = {
    "of another namespace": {"name": "forged", "namespace": "elsewhere"},
    "without an owner": {"name": "forged", "ownerReferences": []},
    "with another owner": {
        "name": "forged",
        "ownerReferences": [
            {"apiVersion": "tunesmith.dev/v1alpha1", "kind": "FineTuneJob", "name": "x", "uid": "x", "controller": True}
        ],
    },
}


@pytest.mark.parametrize("case", FORGED)
def test_a_job_that_is_not_its_own_is_not_believed(life: Life, case: str) -> None:
    """What a Job reports counts only if the FineTuneJob controls it: labels can be written by anybody."""
    life.apply()
    life.run(until="prepare")
    true = newest(life, "prepare")
    false = forged(life, true, **FORGED[case])
    life.cluster.remove(true)
    life.look()
    assert "ab" * 32 not in str(life.cluster.status("bot"))
    life.cluster.remove(false)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert "ab" * 32 not in str(life.cluster.status("bot"))


def test_a_job_without_labels_harms_nobody(life: Life) -> None:
    """A Job of another FineTuneJob that lost its label does not crash those that wait for what it makes."""
    life.apply()
    life.run(until="train")
    strange = newest(life, "train")
    del strange["metadata"]["labels"]["tunesmith.dev/job"]
    life.cluster.changed(strange)
    life.apply({"spec.ollama.model": "other"}, name="second")
    for _ in range(10):
        life.look()
        for job in [job for job in life.unfinished() if job is not strange]:
            life.programs.finish(job)
    assert life.ready("second") == ("False", "MadeElsewhere")
    assert "FineTuneJob bot work" in life.condition(name="second")["message"]


def test_a_pod_that_is_heard_of_before_its_job_counts(life: Life) -> None:
    """Watches of Jobs and Pods are not in step: a Pod that comes first is not lost."""
    life.apply()
    life.look()
    job = newest(life, "fetch")
    with deaf(life, "Job", "Pod"):
        life.programs.end(job, life.programs.start(job), Report(failure=failure(ExitCode.BAD_DATA, "Unreadable")), 65)
    life.cluster.objects = dict(sorted(life.cluster.objects.items(), key=lambda entry: entry[0][0], reverse=True))
    assert next(iter(life.cluster.objects))[0] == "Pod"
    life.restart()
    life.look()
    assert life.ready() == ("False", "Unreadable")
    assert "Pod" not in life.cluster.finds


# --- what is heard late ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["train", "rehearse"])
def test_a_result_counts_although_its_pod_is_heard_of_later(life: Life, stage: str) -> None:
    """A Job that is complete before its Pod's last event comes costs neither a look-up nor another attempt."""
    life.apply()
    life.run(until=stage)
    job = newest(life, stage)
    life.programs.start(job)
    life.look()
    with deaf(life, "Pod", later=True):
        life.programs.finish(job)
        life.look()
        assert life.stage(stage)["state"] == "Succeeded"
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count(stage) == 1
    assert "lookup" not in life.programs.ran


def test_a_failure_has_its_reason_although_its_pod_is_heard_of_later(life: Life) -> None:
    """What the program said is asked for before a failure is taken for an interruption."""
    life.programs.failures["prepare"] = [failure(ExitCode.BAD_DATA, "MissingColumn")]
    life.apply()
    life.run(until="prepare")
    with deaf(life, "Pod", later=True):
        life.programs.finish(newest(life, "prepare"))
        life.look()
    assert life.ready() == ("False", "MissingColumn")
    life.wait(1000)
    assert len(life.cluster.jobs("prepare")) == 1


def test_the_failure_of_another_node_is_not_missed(life: Life) -> None:
    """Of several nodes the second one fails: its own words count, although they are heard after the Job's end."""
    life.apply({"spec.training": {"gpusPerNode": 1, "nodes": 2}})
    life.run(until="train")
    job = newest(life, "train")
    first, second = life.programs.start(job), life.programs.start(job)
    for index, pod in enumerate((first, second)):
        pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] = str(index)
        life.cluster.changed(pod)
    life.look()
    report = Report(failure=failure(ExitCode.OUT_OF_MEMORY, "OutOfMemory"))
    with deaf(life, "Pod"):
        life.programs.end(job, second, report, int(ExitCode.OUT_OF_MEMORY))
    life.programs.end(job, first, None, 137)
    life.look()
    assert life.ready() == ("False", "OutOfMemory")


def test_pods_that_are_gone_are_asked_for_once(life: Life) -> None:
    """A Job whose Pods are gone is not asked about again each time that something happens."""
    life.apply()
    life.run(until="train")
    job = newest(life, "train")
    life.programs.finish(job)
    for pod in pods_of(life, job):
        life.cluster.remove(pod)
    life.look()
    for _ in range(5):
        life.wait(30)
    assert life.cluster.finds.count("Pod") == 1


# --- status conflicts ------------------------------------------------------------------------------------------------


def test_a_conflict_is_mended_by_reading_the_job_again(life: Life) -> None:
    """While the watch is late and somebody has changed the job, its status is written after one more read."""
    life.apply()
    life.look()
    with deaf(life, "FineTuneJob"):
        life.cluster.edit("bot", lambda item: item["metadata"].update(labels={"a": "b"}))
        life.programs.start(newest(life, "fetch"))
        before = len(life.cluster.calls)

        async def look() -> list[float | None]:
            return [await life.reconciler.reconcile(BOT) for _ in range(10)]

        waits = asyncio.run(look())
    assert life.stage("fetch")["state"] == "Running"
    assert len([call for call in life.cluster.calls[before:] if call[0] == "status"]) == 2
    assert 0 not in waits, "not at once: who conflicts again and again must not burn the API server"


def test_a_server_that_was_put_back_from_a_copy_is_believed(life: Life) -> None:
    """After a restore of etcd versions begin again from a lower number: what is known of the future is forgotten."""
    life.apply()
    life.run(until="train")
    resync(life)
    saved = life.cluster.version
    with deaf(life, "FineTuneJob", "Job", "Pod"):
        for item in life.cluster.objects.values():
            item["metadata"]["resourceVersion"] = "7"
        life.cluster.version = 20
        life.programs.finish(newest(life, "train"))
    assert life.cluster.version < saved
    assert BOT in resync(life)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


def test_a_job_from_a_copy_is_written_although_its_version_is_lower(life: Life) -> None:
    """What was read from the server just now holds, whatever was known before."""
    life.apply()
    life.look()
    with deaf(life, "FineTuneJob"):
        life.cache.finetunejobs[BOT]["metadata"]["resourceVersion"] = "999999"
        life.programs.finish(newest(life, "fetch"))
        life.look()
        life.look()
    assert life.stage("fetch")["state"] == "Succeeded"


def test_what_is_gone_is_forgotten_at_a_resync(life: Life) -> None:
    """A FineTuneJob that was deleted while the watch was away does not live on, though it was the newest of all."""
    life.apply()
    life.run(until="train")
    life.programs.start(newest(life, "train"))
    life.cluster.edit("bot", lambda item: item["metadata"].update(labels={"x": "y"}))
    uid = finetunejob(life)["metadata"]["uid"]
    with deaf(life, "FineTuneJob", "Job", "Pod"):
        life.cluster.remove(finetunejob(life))
    assert BOT in resync(life)
    assert life.cache.finetunejobs == {}
    assert life.cache.jobs_of("default", uid) == []
    life.clock.forward(5)
    life.apply(name="late")
    life.run()
    assert life.ready("late") == ("True", "Succeeded")


def test_what_is_newer_than_the_lists_stays(life: Life) -> None:
    """A Job that the operator created while the lists were being read is not taken for gone."""
    read = asyncio.run(lists(life))
    life.apply()
    life.look()
    take(life, read)
    assert len(life.cache.jobs_of("default", finetunejob(life)["metadata"]["uid"])) == 1
    life.run()
    assert len(life.cluster.jobs("fetch")) == 1


@pytest.mark.parametrize("how", ["deleted", "taken by somebody else"])
def test_what_is_gone_since_the_lists_were_read_stays_gone(life: Life, how: str) -> None:
    """A Job of which the lists still tell is not brought back by them: nobody would wait for it to end."""
    life.apply()
    life.run(until="train")
    job, uid = newest(life, "train"), finetunejob(life)["metadata"]["uid"]
    read = asyncio.run(lists(life))
    if how == "deleted":
        life.cluster.remove(job)
    else:
        job["metadata"]["ownerReferences"] = []
        life.cluster.changed(job)
    take(life, read)
    assert job["metadata"]["name"] not in [item["metadata"]["name"] for item in life.cache.jobs_of("default", uid)]
    resync(life)
    life.run()
    assert life.ready() == ("True", "Succeeded")


# --- what is created -------------------------------------------------------------------------------------------------


def test_a_config_map_from_before_is_replaced(life: Life) -> None:
    """The operator died after the ConfigMap; the job is edited, so the Job gets what it says now."""
    refusal = ApiError(500, "InternalError", "etcd is away")
    life.cluster.refuse = lambda _verb, item: refusal if item["kind"] == "Job" else None
    life.apply({"spec.ollama.smokeTests": [{"prompt": "a", "expect": "old"}]})
    with pytest.raises(ApiError):
        life.look()
    (old,) = life.cluster.of_kind("ConfigMap")
    old["data"]["stage.json"] = old["data"]["stage.json"].replace("faq.json", "old.json")
    life.cluster.refuse = lambda _verb, _item: None
    life.look()
    (new,) = life.cluster.of_kind("ConfigMap")
    assert "old.json" not in new["data"]["stage.json"]
    assert len(life.cluster.jobs("fetch")) == 1


def test_the_config_map_of_a_job_that_is_there_stays(life: Life) -> None:
    """A Job that the operator has not heard of, and that exists, keeps the ConfigMap that it was created with."""
    life.apply()
    life.look()
    (before,) = life.cluster.of_kind("ConfigMap")
    life.cache.drop_job(newest(life, "fetch"))
    life.cluster.edit("bot", lambda item: item.update(status={}))
    life.look()
    (after,) = life.cluster.of_kind("ConfigMap")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert len(life.cluster.jobs("fetch")) == 1


def test_what_was_created_for_a_job_that_has_ended_goes_again(life: Life) -> None:
    """Another operator had created the Job, and told that it failed; this one has heard of neither."""
    life.apply()
    young = copy.deepcopy(life.cluster.objects[("FineTuneJob", "default", "bot")])
    life.programs.failures["fetch"] = [failure(ExitCode.BAD_DATA, "BadData")]
    life.run()
    assert life.ready() == ("False", "BadData")
    assert life.cluster.of_kind("ConfigMap") == []
    life.restart()
    life.cache.drop_job(newest(life, "fetch"))
    life.cache.put_finetunejob(young, live=True)
    life.cluster.calls.clear()
    asyncio.run(life.reconciler.reconcile(BOT))
    assert [call[1] for call in life.cluster.calls if call[0] == "create"] == ["ConfigMap", "Job"]
    assert life.cluster.of_kind("ConfigMap") == []
    life.look()
    assert life.ready() == ("False", "BadData")
    assert len(life.cluster.jobs("fetch")) == 1


@pytest.mark.parametrize(("status", "stalled"), [(422, "True"), (400, "True"), (413, "True"), (403, "False")], ids=str)
def test_what_the_api_server_never_takes_stalls(life: Life, status: int, stalled: str) -> None:
    """An invalid object is not sent again every 15 s for ever, a refusal that may pass is: in the server's words."""
    error = ApiError(status, "Invalid", "spec.template.spec.tolerations[0]: no such operator")
    life.cluster.refuse = lambda _verb, item: error if item["kind"] == "Job" else None
    life.apply()
    wake = asyncio.run(life.reconciler.reconcile(BOT))
    assert life.ready() == ("False", "ApiRefused")
    assert "no such operator" in life.condition()["message"]
    assert life.condition("Stalled")["status"] == stalled
    assert (wake is None) == (stalled == "True")
    life.cluster.refuse = lambda _verb, _item: None
    life.cluster.edit("bot", lambda item: item["metadata"].update(annotations={"tunesmith.dev/retry": "1"}))
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.stage("fetch")["attempts"] == 1


def test_attempts_at_something_else_are_not_those_of_what_was_refused(life: Life) -> None:
    """What an edit asks for has had no attempt while the API server lets none be created, whatever came before."""
    life.apply()
    life.run()
    refusal = ApiError(403, "Forbidden", "exceeded quota")
    life.cluster.refuse = lambda _verb, item: refusal if item["kind"] == "Job" else None
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="3e-3"))
    asyncio.run(life.reconciler.reconcile(BOT))
    assert life.ready() == ("False", "QuotaExceeded")
    assert not life.stage("rehearse").get("attempts")
    assert not life.stage("rehearse").get("job")
    life.cluster.refuse = lambda _verb, _item: None
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.stage("rehearse")["attempts"] == 1


# --- the same work ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "waits"),
    [({}, True), ({"claimName": "other"}, False), ({"subPath": "team/b"}, False)],
    ids=["same volume", "another claim", "another folder"],
)
def test_only_the_same_volume_is_waited_for(storage: dict[str, str], waits: bool) -> None:
    """What a Job makes on another volume, or in another folder of it, is of no use here."""
    life = Life()
    life.apply()
    life.run(until="train")
    train = newest(life, "train")
    life.apply({"spec.ollama.model": "other", "spec.storage": storage}, name="second")
    for _ in range(10):
        life.look()
        for job in [job for job in life.unfinished() if job is not train]:
            life.programs.finish(job)
    assert (life.ready("second") == ("False", "MadeElsewhere")) is waits


def test_two_workers_do_not_begin_the_same(life: Life) -> None:
    """Two jobs that are looked at in the same moment, and need the same, get one Job between them."""
    life.apply()
    life.apply({"spec.ollama.model": "other"}, name="late")

    async def look_at_both() -> None:
        await asyncio.gather(life.reconciler.reconcile(BOT), life.reconciler.reconcile(LATE))

    asyncio.run(look_at_both())
    assert len(life.cluster.jobs("fetch")) == 1
    assert {life.ready()[1], life.ready("late")[1]} == {"Pending", "MadeElsewhere"}
    for _ in range(3):
        life.run()
        life.wait(15)
    assert life.ready() == life.ready("late") == ("True", "Succeeded")


@pytest.mark.parametrize("created", [True, False])
@pytest.mark.parametrize("then", ["it is asked again", "the job is deleted", "the job is edited"])
def test_what_may_have_been_begun_is_not_begun_for_another_job(life: Life, created: bool, then: str) -> None:
    """The API server did not answer: until it is known whether the Job is there, nobody else begins the same."""
    life.apply()
    life.apply({"spec.ollama.model": "other"}, name="late")

    def no_answer(_verb: str, item: Object) -> ApiError | None:
        if item["kind"] != "Job":
            return None
        life.cluster.refuse = lambda _verb, _item: None
        if created:
            life.cluster.put_new(item)
        return ApiError(0, "", "the connection was reset")

    life.cluster.refuse = no_answer
    with deaf(life, "Job", later=True):
        with pytest.raises(ApiError):
            asyncio.run(life.reconciler.reconcile(BOT))
        asyncio.run(life.reconciler.reconcile(LATE))
        assert len(life.cluster.jobs("fetch")) == created
        assert life.ready("late") == ("False", "MadeElsewhere")
        if then == "the job is deleted":
            life.cluster.remove(life.cluster.objects["FineTuneJob", "default", "bot"])
            for job in life.cluster.jobs():  # the garbage collector follows
                life.cluster.remove(job)
        elif then == "the job is edited":
            life.cluster.edit("bot", lambda item: item["spec"].update(model={"what": "is this"}))
    for _ in range(3):
        life.run()
        life.wait(15)
    assert life.ready("late") == ("True", "Succeeded")
    assert life.programs.ran.count("train") == 1


@pytest.mark.parametrize("how", ["ends", "is deleted"])
def test_who_waits_for_the_same_work_is_woken_when_it_ends(woken: list[Key], how: str) -> None:
    """The second job goes on as soon as the Job of the first one has ended."""
    life = Life()
    life.apply()
    life.run(until="train")
    train = newest(life, "train")
    life.programs.start(train)
    life.apply({"spec.ollama.model": "other"}, name="late")
    for _ in range(10):
        life.look()
        for job in [job for job in life.unfinished() if job is not train]:
            life.programs.finish(job)
    assert life.ready("late") == ("False", "MadeElsewhere")
    woken.clear()
    if how == "ends":
        life.programs.finish(train)
    else:
        life.cluster.remove(train)
    assert LATE in woken


def test_an_attempt_waits_for_the_pods_of_a_job_that_was_deleted_by_hand(life: Life) -> None:
    """Deleted in the background, a Job is gone while its Pod still saves: nobody else writes there until it ended."""
    life.apply()
    life.run(until="train")
    job = newest(life, "train")
    pod = life.programs.start(job)
    life.look()
    life.cluster.objects.pop(("Job", "default", job["metadata"]["name"]))
    life.hear("DELETED", job)
    life.run()
    assert life.programs.ran.count("lookup") == 1
    assert life.unfinished("train") == []
    assert life.ready() == ("False", "MadeElsewhere")
    life.cluster.remove(pod)
    for _ in range(5):
        life.wait(15)
    assert life.unfinished("train")
    life.run()
    assert life.ready() == ("True", "Succeeded")


# --- logs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        '{"stage": "train", "metrics": null}',
        '{"stage": "train", "metrics": {"etaSeconds": Infinity, "checkpointSeconds": NaN}}',
        '{"stage": "train", "metrics": {"checkpointSeconds": "long"}}',
        '{"stage": "train", "done": NaN, "total": 2}',
    ],
)
def test_a_strange_line_in_a_log_holds_nobody_up(life: Life, line: str) -> None:
    """Whatever a program, or a library that it uses, writes: the job goes on to its end."""
    life.apply()
    life.run(until="train")
    job = newest(life, "train")
    pod = life.programs.start(job)
    life.cluster.logs[pod["metadata"]["name"]] = f'{{"stage": "train", "note": "loading"}}\n{line}\n'
    life.wait(30)
    life.wait(30)
    assert life.cluster.status("bot")["progress"]["text"] == "loading"
    life.run()
    assert life.ready() == ("True", "Succeeded")


# --- what is left ----------------------------------------------------------------------------------------------------


def test_the_config_map_of_a_look_up_goes_with_it(life: Life) -> None:
    """When a result was looked up, nothing is left of it but the Job."""
    life.apply()
    life.run(until="train")
    life.cluster.remove(newest(life, "train"))
    life.run()
    assert life.programs.ran.count("lookup") == 1
    assert life.ready() == ("True", "Succeeded")
    assert config_maps(life) == []


def test_the_config_map_of_a_look_up_that_nobody_hears_of_goes(life: Life) -> None:
    """Its Job, which had lost its labels, was gone when the operator started: what it left is known by its name."""
    life.apply()
    life.run(until="train")
    life.cluster.remove(newest(life, "train"))
    life.look()
    lookup = newest(life, "train")
    assert lookup["metadata"]["name"] in config_maps(life)
    life.cluster.remove(lookup)
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="0.5"))
    life.restart()
    life.run(until="rehearse")
    life.run(until="train")
    assert config_maps(life) == [newest(life, "train")["metadata"]["name"]]


def test_what_ran_while_nobody_knew_leaves_nothing(life: Life) -> None:
    """The operator was killed before the status told of a Job, which ended and was not wanted any more meanwhile."""
    life.apply()
    life.run(until="rehearse")
    before = copy.deepcopy(finetunejob(life)["status"])
    life.run(until="train")
    life.programs.finish(newest(life, "train"))
    life.cluster.edit("bot", lambda item: item.update(status=before))
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="0.5"))
    life.restart()
    life.run()
    assert life.programs.ran.count("train") == 2
    assert life.ready() == ("True", "Succeeded")
    assert config_maps(life) == []


def test_the_service_of_several_nodes_goes_with_its_job(life: Life) -> None:
    """A training on two nodes that is edited to one leaves no Service behind."""
    life.apply({"spec.training": {"gpusPerNode": 1, "nodes": 2}})
    life.run(until="train")
    assert len(life.cluster.of_kind("Service")) == 1
    job = newest(life, "train")
    life.programs.start(job)
    life.look()
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(nodes=1))
    life.look()
    life.cluster.remove(job)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.cluster.of_kind("Service") == []


def test_no_service_is_deleted_that_was_never_there(life: Life) -> None:
    """On one node no request is spent on a Service."""
    life.apply()
    life.run()
    assert requests(life, "delete", "Service") == []


def test_only_the_last_failed_jobs_of_a_stage_stay(life: Life) -> None:
    """What is tried again for days does not leave hundreds of Jobs; the last few can be looked at."""
    life.programs.failures["rehearse"] = [failure(ExitCode.UNAVAILABLE, "OllamaUnreachable")] * 8
    life.apply()
    for _ in range(10):
        life.run()
        life.wait(301)
    life.run()
    assert life.ready() == ("True", "Succeeded")
    left = [job["metadata"]["labels"]["tunesmith.dev/attempt"] for job in life.cluster.jobs("rehearse")]
    assert left == ["6", "7", "8", "9"]
    assert life.stage("rehearse")["attempts"] == 9
