"""`deletionPolicy: Delete`: a deleted FineTuneJob goes away after its models have, or after ten minutes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from controller.conftest import Life
from support.fake_cluster import failure
from tunesmith import metrics
from tunesmith.api import keys
from tunesmith.core.removal import GIVE_UP_SECONDS
from tunesmith.kube.cache import Key
from tunesmith.kube.cluster import ApiError, Object
from tunesmith_stages.contract import ExitCode, Report

DELETE = {"spec.ollama.deletionPolicy": "Delete"}
BOT = Key("default", "bot")
STAGES = ["fetch", "prepare", "rehearse", "train", "convert", "quantize", "register"]


def is_there(life: Life, name: str = "bot") -> bool:
    return ("FineTuneJob", "default", name) in life.cluster.objects


def finalizers(life: Life, name: str = "bot") -> list[str]:
    return list(life.cluster.objects[("FineTuneJob", "default", name)]["metadata"].get("finalizers") or ())


def removals(life: Life) -> list[Object]:
    notes = ((job, job["metadata"]["annotations"]) for job in life.cluster.jobs())
    return [job for job, note in notes if note.get(keys.REMOVAL_ANNOTATION) == "true"]


def asked(life: Life) -> dict[str, Any]:
    """Return what the program that removes was told."""
    return dict(life.programs.config(removals(life)[-1]).runtime)


def end(life: Life, report: Report) -> None:
    job = removals(life)[-1]
    life.programs.end(job, life.programs.start(job), report, report.failure.code if report.failure else 0)


def glance(life: Life) -> float | None:
    """Have the operator look once; what is refused again and again never comes to rest."""
    return asyncio.run(life.reconciler.reconcile(BOT))


def served(life: Life, changes: dict[str, Any] | None = None) -> None:
    """Bring a FineTuneJob with `deletionPolicy: Delete` to its end."""
    life.apply({**DELETE, **(changes or {})})
    life.run()
    assert life.ready() == ("True", "Succeeded")


def being_deleted(life: Life) -> None:
    """Have a FineTuneJob that serves its model be deleted, and the operator see it."""
    served(life)
    life.cluster.delete_job("bot")
    life.look()


def told(life: Life, reason: str) -> list[str]:
    """Return what Events with a reason say, also those that could not be created at once."""
    there = [event["message"] for event in life.cluster.of_kind("Event") if event["reason"] == reason]
    return there + [note.message for note in life.notes if note.reason == reason]


def left_behind(life: Life) -> list[str]:
    sentences = told(life, "ModelsLeftBehind")
    assert not any(".." in sentence for sentence in sentences)
    return sentences


# --- the finalizer ---------------------------------------------------------------------------------------------------


def test_the_finalizer_is_there_before_anything_is_begun(life: Life) -> None:
    """It stands on the FineTuneJob before the first child is created."""
    life.apply(DELETE)
    life.look()
    kinds = [call[:2] for call in life.cluster.calls if call[0] in {"finalizers", "create"}]
    assert kinds[0] == ("finalizers", "FineTuneJob")
    assert finalizers(life) == [keys.FINALIZER]


def test_by_default_there_is_none(life: Life) -> None:
    """Without the policy a FineTuneJob has no finalizer, and goes as soon as it is deleted."""
    life.apply()
    life.run()
    assert finalizers(life) == []
    assert not any(call[0] == "finalizers" for call in life.cluster.calls)
    life.cluster.delete_job("bot")
    life.look()
    assert not is_there(life)
    assert removals(life) == []


def test_the_policy_may_change_at_any_time(life: Life) -> None:
    """The finalizer comes and goes with the policy, also when the job is done; others' finalizers stay."""
    life.apply()
    life.run()
    item = life.cluster.objects[("FineTuneJob", "default", "bot")]
    item["metadata"]["finalizers"] = ["example.com/other"]
    life.cluster.edit("bot", lambda item: item["spec"]["ollama"].update(deletionPolicy="Delete"))
    life.look()
    assert finalizers(life) == ["example.com/other", keys.FINALIZER]
    life.cluster.edit("bot", lambda item: item["spec"]["ollama"].update(deletionPolicy="Retain"))
    life.look()
    assert finalizers(life) == ["example.com/other"]
    assert len(life.programs.ran) == 7, "nothing runs again for it"


def test_nothing_is_begun_without_it(life: Life) -> None:
    """Where the operator may not set the finalizer, the job waits and says so; it goes on when it may."""
    life.cluster.refuse = lambda verb, _: ApiError(403, "Forbidden", "no patch") if verb == "patch" else None
    life.apply(DELETE)
    assert glance(life) == 15
    assert life.cluster.jobs() == []
    assert life.ready() == ("False", "ApiRefused")
    assert "no patch" in life.condition()["message"]
    life.cluster.refuse = lambda _verb, _item: None
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_a_change_at_the_same_moment_loses_nothing(life: Life) -> None:
    """A FineTuneJob that somebody edits just then is read again; the finalizer comes on what it is then."""
    life.apply(DELETE)
    stale = life.cluster.objects[("FineTuneJob", "default", "bot")]
    life.cluster.listener = lambda _kind, _item: None  # the news of it is late
    life.cluster.edit("bot", lambda item: item["metadata"].update(finalizers=["example.com/other"]))
    assert stale["metadata"]["finalizers"]
    life.cluster.listener = life.hear
    life.look()
    assert finalizers(life) == ["example.com/other", keys.FINALIZER]


# --- the removal -----------------------------------------------------------------------------------------------------


def test_the_models_go_before_the_job(life: Life) -> None:
    """A Job is told which names on which servers to remove, and whose they are; then the FineTuneJob goes."""
    served(life, {"spec.export": {"quantizations": ["Q4_K_M", "Q8_0"]}})
    key = life.stage("register")["keys"]
    before = metrics.REGISTRY.get_sample_value("tunesmith_models_removed_total") or 0
    life.cluster.delete_job("bot")
    life.look()
    assert is_there(life)
    given = asked(life)
    assert given["names"] == {"main": ["support-bot:v1", "support-bot:v1-q8_0"]}
    assert given["keys"] == key
    assert given["served"] == given["names"]
    assert given["servers"]["main"]["url"] == "http://ollama:11434"
    assert 0 < given["seconds"] < GIVE_UP_SECONDS
    end(life, Report(numbers={"removed": 2}))
    life.look()
    assert not is_there(life)
    assert life.cluster.jobs() == []
    names = "support-bot:v1, support-bot:v1-q8_0 on server 'main'"
    assert told(life, "RemovingModels") == [f"removing from Ollama: {names}"]
    assert told(life, "ModelsRemoved") == [f"{names}: 2 removed"]
    assert metrics.REGISTRY.get_sample_value("tunesmith_models_removed_total") == before + 2


def test_the_job_that_removes_runs_as_register_does(life: Life) -> None:
    """It has the labels that network policies go by, no credentials even with Exec, and Pod Security's restrictions."""
    servers = [
        {
            "name": "main",
            "url": "http://ollama:11434",
            "allowedNamespaces": ["default"],
            "exec": {"namespace": "ollama", "pod": "ollama-0", "container": "ollama", "volumeMountPath": "/v"},
        }
    ]
    life = Life({"servers": servers, "execServiceAccount": "exec"})
    served(life, {"spec.ollama.method": "Exec"})
    life.cluster.delete_job("bot")
    life.look()
    job = removals(life)[-1]
    pod = job["spec"]["template"]
    assert pod["metadata"]["labels"][keys.STAGE_LABEL] == "register"
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod["spec"]
    assert pod["spec"]["containers"][0]["command"] == ["python", "-m", "tunesmith_stages.unregister"]
    assert pod["spec"]["containers"][0]["args"] == [
        "--config",
        "/etc/tunesmith/stage.json",
        "--report",
        "/dev/termination-log",
    ]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert job["spec"]["backoffLimit"] == 0
    assert len(job["metadata"]["name"]) <= 63


@pytest.mark.parametrize("stage", STAGES)
def test_deleted_in_the_middle_of_a_stage(life: Life, stage: str) -> None:
    """What runs is stopped first. Models are removed only if a registration was begun; else the job goes at once."""
    life.apply(DELETE)
    life.run(until=stage)
    running = life.unfinished(stage)[0]
    life.programs.start(running)
    life.look()
    life.cluster.delete_job("bot")
    life.look()
    names = [job["metadata"]["name"] for job in life.unfinished() if job not in removals(life)]
    assert running["metadata"]["name"] not in names
    if stage in {"rehearse", "register"}:
        assert is_there(life), "its program may still change something on the server"
        assert removals(life) == []
        life.cluster.remove(running)
        life.wait(2)
    assert is_there(life) is (stage == "register")
    if stage == "register":
        assert len(asked(life)["keys"]) == 1
        end(life, Report(numbers={"gone": 1}))
        life.look()
    assert not is_there(life)
    assert left_behind(life) == []


def test_a_registration_that_the_status_does_not_know_of(life: Life) -> None:
    """A Job that was created just before the deletion, and whose status could not be written, counts as well."""
    life.apply(DELETE)
    life.run(until="register")
    item = life.cluster.objects[("FineTuneJob", "default", "bot")]
    told = next(stage for stage in item["status"]["stages"] if stage["name"] == "register")
    key = told.pop("keys")
    life.programs.finish(life.unfinished()[0])
    life.cluster.delete_job("bot")
    life.look()
    assert asked(life)["keys"] == key


def test_an_operator_that_was_away_goes_on(life: Life) -> None:
    """A deletion that nobody saw is carried out later, from any point, and by another operator."""
    served(life)
    life.cluster.delete_job("bot")
    life.restart()
    life.look()
    assert len(removals(life)) == 1
    life.restart()
    end(life, Report(numbers={"removed": 1}))
    life.restart()
    life.look()
    assert not is_there(life)
    assert left_behind(life) == []


def test_what_was_removed_while_nobody_looked_counts(life: Life) -> None:
    """An operator that comes back after the time has passed, and finds the work done, does not call it left."""
    being_deleted(life)
    end(life, Report(numbers={"removed": 1}))
    life.restart()
    life.wait(GIVE_UP_SECONDS + 1)
    assert not is_there(life)
    assert left_behind(life) == []


def test_a_server_that_comes_back(life: Life) -> None:
    """A failure that may pass is tried again, and the job goes as soon as that works."""
    being_deleted(life)
    end(life, Report(failure=failure(ExitCode.UNAVAILABLE, "OllamaUnreachable", "no answer")))
    life.look()
    assert len(removals(life)) == 1
    life.wait(15)
    assert len(removals(life)) == 2
    assert asked(life)["seconds"] <= GIVE_UP_SECONDS - 15
    end(life, Report(numbers={"removed": 1}))
    life.look()
    assert not is_there(life)
    assert left_behind(life) == []


# --- giving up -------------------------------------------------------------------------------------------------------


def test_it_is_given_up_after_ten_minutes(life: Life) -> None:
    """A server that never answers does not keep the FineTuneJob: it goes, and an Event says what is left and why."""
    being_deleted(life)
    for _ in range(100):
        if not is_there(life):
            break
        if len(life.unfinished()):
            end(life, Report(failure=failure(ExitCode.UNAVAILABLE, "OllamaUnreachable", "the server does not answer")))
        life.wait(10)
    assert not is_there(life)
    (left,) = left_behind(life)
    assert "support-bot:v1 on server 'main'" in left
    assert "the server does not answer" in left


@pytest.mark.parametrize("how", ["the pod waits", "nothing may be created"])
def test_it_is_given_up_on_time(life: Life, how: str) -> None:
    """Whatever holds it up: one second before the time it is there, at the time it goes."""
    served(life)
    if how == "nothing may be created":
        full = ApiError(403, "Forbidden", "exceeded quota: small")
        life.cluster.refuse = lambda verb, item: full if verb == "create" and item["kind"] == "Job" else None
    life.cluster.delete_job("bot")
    glance(life)
    if how == "the pod waits":
        message = {"reason": "ImagePullBackOff", "message": "no such image"}
        life.programs.pending(removals(life)[0], containerStatuses=[{"name": "stage", "state": {"waiting": message}}])
    life.clock.forward(GIVE_UP_SECONDS - 1)
    assert glance(life) == pytest.approx(1)
    assert is_there(life)
    life.clock.forward(1)
    glance(life)
    assert not is_there(life)
    (left,) = left_behind(life)
    assert ("image" in left) if how == "the pod waits" else ("exceeded quota" in left)


def test_a_server_that_refuses_everything_is_given_up_as_well(life: Life) -> None:
    """Also where each request fails the time is kept: the finalizer goes as soon as that alone works."""
    served(life)
    life.cluster.refuse = lambda verb, _: ApiError(500, "InternalError", "webhook") if verb == "create" else None
    life.cluster.delete_job("bot")
    with pytest.raises(ApiError):
        glance(life)
    life.clock.forward(GIVE_UP_SECONDS)
    glance(life)
    assert not is_there(life)
    assert "support-bot:v1" in left_behind(life)[0]


def test_what_it_owns_cannot_even_be_listed(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """A right that is lacking does not keep it beyond the time, either."""
    served(life)

    async def refused(*_: Any, **__: Any) -> list[Object]:
        raise ApiError(403, "Forbidden", "cannot list jobs")

    monkeypatch.setattr(life.cluster, "find", refused)
    life.cluster.delete_job("bot")
    with pytest.raises(ApiError):
        glance(life)
    life.clock.forward(GIVE_UP_SECONDS)
    glance(life)
    assert not is_there(life)
    assert "cannot list jobs" in left_behind(life)[0]


def test_pods_that_cannot_be_remove_nothing(life: Life) -> None:
    """Why no Pod of the removal can be made is told in the sentence of what is left."""
    served(life)
    pods = {"register": {"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "1Gi"}}}}
    life.cluster.edit("bot", lambda item: item["spec"].update(pods=pods))
    life.cluster.delete_job("bot")
    life.look()
    assert not is_there(life)
    (left,) = left_behind(life)
    assert "must not be above `limits.memory`, which is 1Gi, got 4Gi" in left


def test_a_failure_that_no_time_mends_is_given_up_at_once(life: Life) -> None:
    """Nobody waits ten minutes for what cannot work."""
    being_deleted(life)
    end(life, Report(failure=failure(ExitCode.BAD_CONFIG, "NotOllama", "what answers is none")))
    life.look()
    assert not is_there(life)
    assert "what answers is none" in left_behind(life)[0]


def test_a_namespace_that_ends_is_not_held_up(life: Life) -> None:
    """Nothing can be created in it any more, so its FineTuneJobs go at once, and the models are told."""
    served(life)
    life.cluster.terminating.add("default")
    life.cluster.delete_job("bot")
    life.look()
    assert not is_there(life)
    assert "being terminated" in left_behind(life)[0]


def test_the_policy_may_change_while_it_is_deleted(life: Life) -> None:
    """Retain lets a FineTuneJob go that waits for its removal, and nothing is told to be left."""
    being_deleted(life)
    assert is_there(life)
    life.cluster.edit("bot", lambda item: item["spec"]["ollama"].update(deletionPolicy="Retain"))
    life.look()
    assert not is_there(life)
    assert left_behind(life) == []


def test_what_the_volume_does_not_know_is_told(life: Life) -> None:
    """A model of which the volume does not say that this job registered it stays, and an Event says so."""
    being_deleted(life)
    end(life, Report(numbers={"unknown": 1}))
    life.look()
    assert not is_there(life)
    assert "support-bot:v1" in left_behind(life)[0]


# --- whose models they are -------------------------------------------------------------------------------------------


def test_who_waits_for_the_name_goes_on_after_the_removal(life: Life) -> None:
    """Another job with the same name begins only when the removal is over: it would lose its model otherwise."""
    served(life)
    life.apply(name="other")
    life.look()
    assert life.ready("other") == ("False", "ModelNameTaken")
    life.cluster.delete_job("bot")
    life.look()
    assert life.ready("other") == ("False", "ModelNameTaken")
    end(life, Report(numbers={"removed": 1}))
    life.run()
    assert not is_there(life)
    assert life.ready("other") == ("True", "Succeeded")


def test_a_name_of_another_job_is_not_touched(life: Life) -> None:
    """A job that was edited to name the model of another one, and deleted, does not ask for that to be removed."""
    served(life)
    life.apply({**DELETE, "spec.ollama.model": "mine:v1"}, name="second")
    life.run()
    life.cluster.edit("second", lambda item: item["spec"]["ollama"].update(model="support-bot:v1"))
    life.look()
    assert life.ready("second") == ("False", "ModelNameTaken")
    life.cluster.delete_job("second")
    life.look()
    for job in removals(life):
        assert "support-bot:v1" not in json.dumps(life.programs.config(job).runtime["names"])


def test_a_name_that_the_administrator_no_longer_allows(life: Life) -> None:
    """A server that is not for this namespace any more is not spoken to: the job goes, and says what it leaves."""
    served(life)
    life.settings = life.settings.model_copy(
        update={"servers": (life.settings.servers[0].model_copy(update={"allowed_namespaces": ("team-a",)}),)}
    )
    life.restart()
    life.cluster.delete_job("bot")
    life.look()
    assert not is_there(life)
    assert removals(life) == []
    assert "support-bot:v1 on server 'main', which is not for this namespace" in left_behind(life)[0]


# --- answers that are lost -------------------------------------------------------------------------------------------


def gone_unanswered(life: Life) -> ApiError:
    """Have the FineTuneJob go just now, and return the error that the operator gets instead of an answer."""
    life.cluster.refuse = lambda _verb, _item: None
    life.cluster.remove(life.cluster.objects[("FineTuneJob", "default", "bot")])
    return ApiError(503, "ServiceUnavailable", "the connection was cut")


def counted(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0


def test_one_that_is_applied_again_at_once_is_looked_at(life: Life) -> None:
    """The operator reads the new one itself, since it asks what became of the old one: no news of it will come."""
    being_deleted(life)
    end(life, Report(numbers={"removed": 1}))
    before = counted("tunesmith_models_removed_total")

    def applied_again(verb: str, _item: Object) -> ApiError | None:
        if verb != "patch":
            return None
        life.cluster.listener = lambda _kind, _item: None
        error = gone_unanswered(life)
        life.apply()
        return error

    life.cluster.refuse = applied_again
    assert glance(life) == 0
    assert counted("tunesmith_models_removed_total") == before + 1
    life.cluster.listener = life.hear
    life.run()
    assert life.ready() == ("True", "Succeeded")


def test_models_that_were_removed_are_not_told_as_left(life: Life) -> None:
    """That the API server is overloaded after the time is over changes nothing in how the removal ended."""
    being_deleted(life)
    end(life, Report(numbers={"removed": 1}))
    before = counted("tunesmith_models_removed_total")
    life.clock.forward(GIVE_UP_SECONDS)
    life.cluster.refuse = lambda verb, _: ApiError(429, "TooManyRequests", "slow") if verb == "patch" else None
    with pytest.raises(ApiError):
        glance(life)
    life.cluster.refuse = lambda _verb, _item: None
    glance(life)
    assert not is_there(life)
    assert left_behind(life) == []
    assert len({*told(life, "ModelsRemoved")}) == 1
    assert counted("tunesmith_models_removed_total") == before + 1


def test_what_is_left_is_counted_though_no_answer_comes(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alert hears of it when the operator does: that the FineTuneJob is gone."""
    being_deleted(life)
    end(life, Report(failure=failure(ExitCode.BAD_CONFIG, "NotOllama", "what answers is none")))
    before = counted("tunesmith_models_left_behind_total", reason="NotOllama")

    async def silent(*_: Any) -> Object | None:
        raise ApiError(0, "", "the connection was reset")

    with monkeypatch.context() as patched:
        patched.setattr(life.cluster, "get", silent)
        life.cluster.refuse = lambda verb, _: gone_unanswered(life) if verb == "patch" else None
        with pytest.raises(ApiError):
            glance(life)
    assert glance(life) is None
    assert counted("tunesmith_models_left_behind_total", reason="NotOllama") == before + 1
