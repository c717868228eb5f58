"""`ttlSecondsAfterFinished`: ended child Jobs go when the FineTuneJob has been at its end for so long; nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest

from controller.conftest import Life
from support.fake_cluster import failure
from tunesmith.core.times import to_text
from tunesmith_stages.contract import ExitCode

TTL = {"spec.ttlSecondsAfterFinished": 600}


def test_jobs_of_a_finished_job_go_after_the_time(life: Life) -> None:
    """They stay for the time that is asked for, then all of them go; the FineTuneJob says the same as before."""
    life.apply(TTL)
    life.run()
    status = life.cluster.status("bot")
    life.wait(599)
    assert len(life.cluster.jobs()) == 7
    assert life.wakes[next(iter(life.wakes))] == pytest.approx(1)
    life.wait(1)
    assert life.cluster.jobs() == []
    assert life.cluster.of_kind("Pod") == []
    assert life.cluster.status("bot") == status
    life.restart()
    life.wait(100_000)
    assert (len(life.programs.ran), life.cluster.jobs()) == (7, []), "nothing is made again for it"


def test_the_time_runs_from_the_end_of_the_whole(life: Life) -> None:
    """A stage's Job stays as long as others run, however long ago it ended: its log is of use until the end."""
    life.apply(TTL)
    life.run("train")
    life.wait(100_000)
    assert len(life.cluster.jobs()) == 4
    life.run()
    life.wait(10)
    assert len(life.cluster.jobs()) == 7


def test_jobs_of_a_stalled_job_go_and_it_can_be_tried_again(life: Life) -> None:
    """What failed can be looked at for the time; tried again afterwards, only what is missing is made."""
    life.apply(TTL)
    life.programs.failures["quantize"] = [failure(ExitCode.BAD_CONFIG, "UnknownType")]
    life.run()
    assert life.condition("Stalled")["status"] == "True"
    before = life.cluster.status("bot")
    life.wait(600)
    assert life.cluster.jobs() == []
    assert life.cluster.status("bot") == before
    life.cluster.edit("bot", lambda item: item["metadata"].update(annotations={"tunesmith.dev/retry": "1"}))
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.programs.ran[5:] == ["quantize", "register"]


def test_what_waits_keeps_its_jobs(life: Life) -> None:
    """A job that is suspended, or waits for something, has not ended: its Jobs stay."""
    life.apply(TTL)
    life.run("train")
    life.cluster.edit("bot", lambda item: item["spec"].update(suspend=True))
    life.look()
    life.wait(100_000)
    assert [job["metadata"]["labels"]["tunesmith.dev/stage"] for job in life.cluster.jobs()][:3] == [
        "fetch",
        "prepare",
        "rehearse",
    ]


def test_an_operator_that_comes_back_late_removes_them_at_once(life: Life) -> None:
    """The time is in the status: it is not forgotten when the operator ends, and nothing that ran is lost by it."""
    life.apply({"spec.ttlSecondsAfterFinished": 60})
    life.run("register")
    life.programs.finish(life.unfinished()[0])  # nobody has seen it yet
    life.clock.forward(100_000)
    life.restart()
    life.look()
    assert life.ready() == ("True", "Succeeded")
    assert (len(life.programs.ran), len(life.cluster.jobs())) == (7, 7), "what it reported was read"
    life.restart()
    life.wait(60)
    assert life.cluster.jobs() == []


def test_an_edited_time_holds_for_jobs_that_are_there(life: Life) -> None:
    """The time can be changed afterwards; nothing is made again."""
    life.apply(TTL)
    life.run()
    life.wait(120)
    life.cluster.edit("bot", lambda item: item["spec"].update(ttlSecondsAfterFinished=60))
    life.look()
    assert (life.cluster.jobs(), len(life.programs.ran)) == ([], 7)


def test_a_status_from_the_future_does_not_keep_them(life: Life) -> None:
    """The operator's clock was a year ahead when the job ended, and is right now: the ends of the Jobs count."""
    life.apply(TTL)
    life.run()
    life.clock.time -= timedelta(days=365)
    for job in life.cluster.jobs():
        job["status"]["conditions"][0]["lastTransitionTime"] = to_text(life.clock.time)
        life.cluster.changed(job)
    life.wait(599)
    assert len(life.cluster.jobs()) == 7
    life.wait(1)
    assert life.cluster.jobs() == []


@pytest.mark.parametrize("jump", [-86_400, 86_400], ids=["a day back", "a day forward"])
def test_a_clock_that_jumps_does_no_harm(life: Life, jump: int) -> None:
    """They go too early or too late, and the job stays as it is."""
    life.apply(TTL)
    life.run()
    life.clock.time += timedelta(seconds=jump)
    life.look()
    assert len(life.cluster.jobs()) == (7 if jump < 0 else 0)
    life.wait(601)
    life.wait(601)
    assert life.ready() == ("True", "Succeeded")
    assert len(life.programs.ran) == 7
