"""A FineTuneJob whose base another one trains: it waits for that one, whatever becomes of it, and then goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from controller import conftest
from controller.conftest import Life
from support.builders import REMOVED
from support.fake_cluster import failure
from tunesmith.kube.cache import Cache, Key
from tunesmith.kube.cluster import Object
from tunesmith_stages.contract import ExitCode


def after(name: str) -> dict[str, Any]:
    """Return what makes a job go on from another one."""
    return {"spec.model": {"job": {"name": name}}, "spec.ollama.model": f"after-{name}:v1"}


def model(**source: Any) -> Callable[[Object], None]:
    """Return an edit that gives a job another base."""
    return lambda item: item["spec"].update(model=source)


def jobs_of(life: Life, name: str) -> list[Object]:
    return [job for job in life.cluster.jobs() if job["metadata"]["labels"]["tunesmith.dev/job"] == name]


def look_at(life: Life, name: str) -> None:
    """Have the operator look at one job, and at no other."""
    asyncio.run(life.reconciler.reconcile(Key("default", name)))


def trained(life: Life, name: str) -> str:
    (unit,) = life.stage("train", name)["units"]
    return str(unit["key"])


def base(life: Life, name: str) -> str:
    """Return the version of a job's base."""
    return str(next(item["version"] for item in life.cluster.status(name)["sources"] if item["name"] == "base"))


@pytest.mark.parametrize("order", [("bot", "second"), ("second", "bot")])
def test_both_applied_at_once(life: Life, order: tuple[str, str]) -> None:
    """Whichever comes first: nothing is made for the one that goes on from the other before that one has trained."""
    changes = {"bot": None, "second": after("bot")}
    for name in order:
        life.apply(changes[name], name=name)
    life.run(until="train")
    assert life.ready("second") == ("False", "WaitingForJob")
    assert life.condition("Reconciling", "second")["status"] == "True"
    message = life.condition(name="second")["message"]
    assert "FineTuneJob bot trains, which has not trained yet and is at `train`" in message
    assert jobs_of(life, "second") == []
    life.run()
    assert life.ready() == life.ready("second") == ("True", "Succeeded")
    assert base(life, "second") == trained(life, "bot")
    assert life.programs.ran.count("train") == 2


def test_it_may_not_exist_yet(life: Life) -> None:
    """A job that names one that does not exist says so and makes nothing, for as long as it takes."""
    life.apply(after("bot"), name="second")
    life.run()
    life.wait(1_000_000)
    assert life.ready("second") == ("False", "WaitingForJob")
    assert "bot trains, which does not exist in this namespace yet" in life.condition(name="second")["message"]
    assert life.cluster.jobs() == []
    life.apply(namespace="elsewhere")
    life.run()
    assert life.ready("second") == ("False", "WaitingForJob")


def test_the_other_one_fails_and_is_mended(life: Life) -> None:
    """What stopped the other job is told with its own words; it is waited for all the same, and then gone on."""
    life.programs.failures["train"] = [failure(ExitCode.OUT_OF_MEMORY, "OutOfMemory", "16 GiB were not enough")]
    life.apply(after("bot"), name="second")
    life.apply()
    life.run()
    assert life.ready("second") == ("False", "WaitingForJob")
    assert life.condition("Stalled", "second")["status"] == "False"
    message = life.condition(name="second")["message"]
    assert "somebody must mend first" in message
    assert "OutOfMemory: 16 GiB were not enough" in message
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(sequenceLength=512))
    life.run()
    assert life.ready("second") == ("True", "Succeeded")


def test_one_that_ends_before_its_training_is_waited_for(life: Life) -> None:
    """A dry run has trained nothing; once it is none any more, the other job goes on."""
    life.apply({"spec.dryRun": True})
    life.apply(after("bot"), name="second")
    life.run()
    assert life.ready("second") == ("False", "WaitingForJob")
    assert "ends before its training" in life.condition(name="second")["message"]
    life.cluster.edit("bot", lambda item: item["spec"].update(dryRun=False))
    life.run()
    assert life.ready("second") == ("True", "Succeeded")


def test_what_an_earlier_version_has_trained_is_not_taken(life: Life) -> None:
    """Of a job that is edited at the same time the new version is waited for, though the operator has not seen it."""
    life.apply()
    life.run()
    before = trained(life, "bot")
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="0.5"))
    life.apply(after("bot"), name="second")
    look_at(life, "second")
    assert "has not been looked at yet as it is written now" in life.condition(name="second")["message"]
    life.run()
    assert base(life, "second") == trained(life, "bot") != before


def test_what_was_used_once_stays_until_it_is_looked_up_again(life: Life) -> None:
    """Another training of the other job changes nothing; the annotation tunesmith.dev/refresh takes it over."""
    life.apply()
    life.apply(after("bot"), name="second")
    life.run()
    first = trained(life, "bot")
    life.cluster.edit("bot", lambda item: item["spec"]["training"].update(learningRate="0.5"))
    life.run()
    life.cluster.edit("second", lambda item: item["spec"]["training"].update(learningRate="0.25"))
    life.run()
    assert base(life, "second") == first != trained(life, "bot")
    life.cluster.edit("second", lambda item: item["metadata"].update(annotations={"tunesmith.dev/refresh": "1"}))
    life.run()
    assert base(life, "second") == trained(life, "bot")
    assert life.ready("second") == ("True", "Succeeded")


def test_sources_that_are_looked_up_again_in_both_are_waited_for(life: Life) -> None:
    """With new data for the first job, the second one's base is what the first one trains on them."""
    life.apply()
    life.apply(after("bot"), name="second")
    life.run()
    first = trained(life, "bot")
    life.programs.versions["dataset:faq"] = "f" * 64
    for name in ("second", "bot"):
        life.cluster.edit(name, lambda item: item["metadata"].update(annotations={"tunesmith.dev/refresh": "1"}))
    look_at(life, "second")
    assert life.ready("second") == ("False", "WaitingForJob")
    life.run()
    assert base(life, "second") == trained(life, "bot") != first


def test_jobs_that_wait_for_each_other_are_refused(life: Life) -> None:
    """Each of them is stalled and names the circle; one that waits for them waits on. An edit of one frees all."""
    for name, other in (("a", "b"), ("b", "c"), ("c", "a"), ("outside", "a")):
        life.apply({**after(other), "spec.ollama.model": name}, name=name)
    life.run()
    assert [life.ready(name) for name in ("a", "b", "c")] == [("False", "JobCycle")] * 3
    assert "waits for what the next one trains: b, c, a, b." in life.condition("Stalled", "b")["message"]
    assert life.ready("outside") == ("False", "WaitingForJob")
    assert life.cluster.jobs() == []
    life.cluster.edit("c", model(volume={"path": "models/base"}))
    life.run()
    assert [life.ready(name) for name in ("a", "b", "c", "outside")] == [("True", "Succeeded")] * 4
    assert base(life, "b") == trained(life, "c")


def test_two_that_take_turns_are_no_circle(life: Life) -> None:
    """A job may go on from one that went on from its own earlier result."""
    life.apply()
    life.apply(after("bot"), name="second")
    life.run()
    life.cluster.edit("bot", model(job={"name": "second"}))
    life.run()
    assert life.ready() == life.ready("second") == ("True", "Succeeded")
    assert base(life, "bot") == trained(life, "second")


def test_one_that_has_its_base_closes_no_circle(life: Life) -> None:
    """A job that trains on what another one left before is waited for by that one, which goes on from it now."""
    life.apply()
    life.apply(after("bot"), name="second")
    life.run()
    life.cluster.edit("second", lambda item: item["spec"]["training"].update(learningRate="0.5"))
    life.run(until="train")
    life.cluster.edit("bot", model(job={"name": "second"}))
    life.look()
    assert life.ready() == ("False", "WaitingForJob")
    life.run()
    assert base(life, "bot") == trained(life, "second")


def test_a_job_that_trains_nothing_is_refused(life: Life) -> None:
    """A job with a GGUF as base never has a training that another one could go on from."""
    gguf = {"gguf": {"path": "models/ready.gguf"}}
    life.apply({"spec.model": gguf, "spec.datasets": REMOVED, "spec.training": REMOVED})
    life.apply(after("bot"), name="second")
    life.run()
    assert life.ready("second") == ("False", "JobTrainsNothing")
    assert life.condition("Stalled", "second")["status"] == "True"
    life.cluster.edit("second", model(volume={"path": "models/base"}))
    life.run()
    assert life.ready("second") == ("True", "Succeeded")


def test_a_suspended_one_says_that_it_is_suspended(life: Life) -> None:
    """A job that is suspended itself does not say that it waits for another one."""
    life.apply({**after("bot"), "spec.suspend": True}, name="second")
    life.run()
    assert life.ready("second") == ("False", "Suspended")


def test_news_of_the_other_one_wake_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waiting job is looked at whenever the other one stands differently, and never for its mere progress."""
    woken: list[Key] = []
    monkeypatch.setattr(conftest, "Cache", partial(Cache, woken.append))
    life = Life()
    second = Key("default", "second")
    life.apply(after("bot"), name="second")
    life.look()
    life.apply()
    assert woken == [second], "it exists now"
    life.run(until="train")
    woken.clear()
    (job,) = life.unfinished("train")
    life.programs.start(job)
    life.look()
    assert second in woken
    woken.clear()
    life.cluster.edit("bot", lambda item: item["status"]["progress"].update(text="50 %"))
    assert woken == []
    life.programs.finish(job)
    life.look()
    assert second in woken, "it has trained"
    woken.clear()
    life.cluster.remove(life.cluster.objects[("FineTuneJob", "default", "second")])
    life.cluster.remove(life.cluster.objects[("FineTuneJob", "default", "bot")])
    assert woken == [], "nobody waits any more"


def test_the_other_one_is_on_another_volume(life: Life) -> None:
    """What is trained where it cannot be read is not waited for; the same storage in both mends it."""
    life.apply(name="bot")
    life.apply({**after("bot"), "spec.storage": {"claimName": "other", "subPath": "team/"}}, name="second")
    life.run(until="train")
    assert life.ready("second") == ("False", "JobOnAnotherVolume")
    assert "uses the claim other, folder team. Set" in life.condition(name="second")["message"]
    life.cluster.edit("second", lambda item: item["spec"].pop("storage"))
    life.run()
    assert life.ready("second") == ("True", "Succeeded")
