"""The last lines of a failed program's log in the status, on a cluster in memory."""

from __future__ import annotations

import pytest

from controller.conftest import Life
from support.fake_cluster import failure
from tunesmith.api.status import FineTuneJobStatus
from tunesmith.kube.cluster import Object
from tunesmith_stages.contract import ExitCode, Report

LOG = "loading\n" + '{"stage": "fetch", "done": 1, "total": 2}\n' + "Traceback (most recent call last):\nboom\n"


def begin(life: Life) -> tuple[Object, Object]:
    """Return the first Job and its Pod, which runs."""
    life.apply()
    life.look()
    job = life.cluster.jobs("fetch")[0]
    return job, life.programs.start(job)


def end(life: Life, job: Object, pod: Object, code: ExitCode) -> None:
    life.programs.end(job, pod, Report(failure=failure(code, "BadData")), int(code))
    life.look()


def test_a_failed_stage_shows_its_last_lines(life: Life) -> None:
    """They stand in the status, in its schema, and stay as long as it has failed; the program's events do not."""
    job, pod = begin(life)
    life.cluster.logs[pod["metadata"]["name"]] = LOG
    end(life, job, pod, ExitCode.BAD_DATA)
    assert life.stage("fetch")["logTail"] == "loading\nTraceback (most recent call last):\nboom"
    FineTuneJobStatus.model_validate(life.cluster.status("bot"))
    life.cluster.logs.clear()
    life.restart()
    life.wait(1000)
    assert life.stage("fetch")["logTail"].endswith("boom")


def test_they_go_with_the_failure(life: Life) -> None:
    """While it is tried again, and when it is done, nothing is told of an earlier attempt."""
    job, pod = begin(life)
    life.cluster.logs[pod["metadata"]["name"]] = LOG
    end(life, job, pod, ExitCode.UNAVAILABLE)
    assert life.stage("fetch")["logTail"].endswith("boom")
    life.wait(10)
    assert life.unfinished("fetch")
    assert "logTail" not in life.stage("fetch")
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert "logTail" not in life.stage("fetch")


def test_of_a_pod_that_is_cut_off_the_last_that_was_read(life: Life) -> None:
    """A lost node hands out no log; what was read while the program ran is kept, and nobody waits for the node."""
    job, pod = begin(life)
    life.cluster.logs[pod["metadata"]["name"]] = "step 1\nstep 2\n"
    life.look()
    life.wait(10)
    life.wait(10)
    del life.cluster.logs[pod["metadata"]["name"]]
    life.programs.evict(job)
    life.look()
    assert life.stage("fetch")["reason"] == "Interrupted"
    assert life.stage("fetch")["logTail"] == "step 1\nstep 2"


@pytest.mark.parametrize("code", [ExitCode.BAD_DATA, ExitCode.UNAVAILABLE])
def test_a_log_that_cannot_be_read_holds_up_nothing(life: Life, code: ExitCode) -> None:
    """The failure is told as without it."""
    job, pod = begin(life)
    end(life, job, pod, code)
    assert life.stage("fetch")["reason"] == "BadData"
    assert "logTail" not in life.stage("fetch")


def test_a_killed_program_is_asked_for_its_log(life: Life) -> None:
    """What ran out of memory said something before: that is read, too."""
    job, pod = begin(life)
    life.cluster.logs[pod["metadata"]["name"]] = "allocating\n"
    terminated = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    life.programs.end(job, pod, None, 137, containerStatuses=[{"name": "stage", "state": terminated}])
    life.look()
    assert life.ready() == ("False", "OutOfMemory")
    assert life.stage("fetch")["logTail"] == "allocating"
