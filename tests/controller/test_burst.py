"""Many FineTuneJobs at once: each gets its first Job before any of them is told about."""

from __future__ import annotations

import asyncio

import pytest

from controller.conftest import Life
from tunesmith.api.status import UNSEEN_GENERATION
from tunesmith.kube.cache import Key

BOT = Key("default", "bot")


@pytest.fixture
def begun(life: Life) -> Life:
    """Return a life in which the first Job is there and its status is still owed."""
    life.apply()
    life.others_wait = True
    assert asyncio.run(life.reconciler.reconcile(BOT)) == 0
    assert len(life.cluster.jobs("fetch")) == 1
    assert life.cluster.status("bot") == {"observedGeneration": UNSEEN_GENERATION}
    return life


def tells_of_its_only_job(life: Life) -> bool:
    return [life.stage("fetch")["job"]] == [job["metadata"]["name"] for job in life.cluster.jobs()]


def test_the_first_status_is_written_after_the_jobs_of_others(begun: Life) -> None:
    """It comes as soon as nobody waits for a Job any more, and tells of the Job that is there."""
    assert begun.reconciler.has_begun(BOT)
    begun.others_wait = False
    begun.look()
    assert tells_of_its_only_job(begun)
    assert not any(done == "get" and what == "FineTuneJob" for done, what, _ in begun.cluster.calls)
    begun.run()
    assert begun.ready() == ("True", "Succeeded")


def test_it_is_owed_but_once(begun: Life) -> None:
    """A stream of new FineTuneJobs cannot keep a status from being written when its turn has come."""
    asyncio.run(begun.reconciler.reconcile(BOT))
    assert tells_of_its_only_job(begun)


def test_a_job_that_ended_meanwhile_counts(begun: Life) -> None:
    """What the first Job reported before its status was written is not lost, and it does not run again."""
    begun.programs.finish(begun.cluster.jobs()[0])
    begun.look()
    assert begun.stage("fetch")["state"] == "Succeeded"
    begun.run()
    assert begun.ready() == ("True", "Succeeded")
    assert len(begun.cluster.jobs("fetch")) == 1


def test_a_crash_before_it_is_written_begins_nothing_twice(begun: Life) -> None:
    """The next process finds the Job and says what the first would have said."""
    begun.others_wait = False
    begun.restart()
    assert not begun.reconciler.has_begun(BOT)
    begun.look()
    assert tells_of_its_only_job(begun)


def test_an_edit_before_it_is_written_counts(begun: Life) -> None:
    """The Job of what is not wanted any more is stopped, as if its status had been there."""
    begun.cluster.edit("bot", lambda item: item["spec"].update(suspend=True))
    begun.look()
    assert begun.condition()["reason"] == "Suspended"
    assert begun.unfinished() == []


def test_another_one_of_that_name_owes_nothing(begun: Life) -> None:
    """The status of a FineTuneJob that was deleted is not written to the one that took its name."""
    begun.cluster.remove(begun.cluster.objects[("FineTuneJob", *BOT)])
    begun.apply({"spec.ollama.model": "other:v1"})
    assert not begun.reconciler.has_begun(BOT)
    begun.others_wait = False
    begun.run()
    assert begun.ready() == ("True", "Succeeded")
