"""Every row of the table of reasons does what it says: by the real input, on a cluster in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controller.conftest import Life
from support.reason_signs import ALL, AT_ONCE, LATER, NO, WAITS, Seen
from tunesmith.kube.cache import Key
from tunesmith.kube.cluster import JOBS, ApiError, Object
from tunesmith_stages.contract import ExitCode, Failure, Report
from tunesmith_stages.reasons import GROUPS, REASONS
from tunesmith_stages.reasons.row import Where
from tunesmith_stages.train.causes import root_cause
from tunesmith_stages.train.exchange import RankExit
from tunesmith_stages.train.worker import failure_of

_TOLD_BY_NAME = {Where.PROGRAM, Where.OPERATOR}
_BY_HAND = {"DeadlineExceeded"}
"""What takes more than one input: tests/controller/test_hard_times.py has it."""


_OWN_HINTS = {"TrainingStalled"}
"""The program says what to do in words of its own, also where the reason is read from a log."""
AFTER = {
    LATER: ("Waiting", "False", 1, 0),
    AT_ONCE: ("Waiting", "False", 0, 1),
    NO: ("Failed", "True", 0, 0),
    WAITS: ("Pending", "False", 0, 0),
}
"""By what is done with the work: state of the stage, status of Stalled, failures and interruptions that are charged."""


def job_of(life: Life) -> Object:
    return life.cluster.jobs("fetch")[0]


def fail(life: Life, failure: Failure) -> None:
    life.programs.end(job_of(life), life.programs.start(job_of(life)), Report(failure=failure), int(failure.code))


def pend(life: Life, **status: Any) -> None:
    life.programs.pending(job_of(life), **status)


def tell(life: Life, about: Object, seen: Seen) -> None:
    meta = about["metadata"]
    life.cluster.put_new(
        {
            "kind": "Event",
            "metadata": {"name": f"told-{len(life.cluster.of_kind('Event'))}", "namespace": meta["namespace"]},
            "involvedObject": {"name": meta["name"], "uid": meta["uid"]},
            "reason": seen.word,
            "message": seen.text,
        }
    )


def happen(life: Life, seen: Seen) -> None:
    """Have the cluster, or the stage's program, say what is `seen`."""
    text = {"reason": seen.word, "message": seen.text}
    match seen.where:
        case Where.EXIT_CODE:
            life.programs.end(job_of(life), life.programs.start(job_of(life)), None, int(seen.word))
        case Where.ENDED:
            pod = life.programs.start(job_of(life))
            state = {"terminated": {"exitCode": 137 if seen.word == "OOMKilled" else 128, **text}}
            status = {"containerStatuses": [{"name": "stage", "state": state}]}
            life.programs.end(job_of(life), pod, None, 1, **status)
        case Where.POD:  # the program is asked to end, and says so
            asked = Report(failure=Failure(ExitCode.INTERRUPTED, "Interrupted", "stopped by SIGTERM", ""))
            life.programs.end(job_of(life), life.programs.start(job_of(life)), asked, 81, **text)
        case Where.CONDITION:
            disrupted = [{"type": seen.word, "status": "True"}]
            life.programs.end(job_of(life), life.programs.start(job_of(life)), None, 137, conditions=disrupted)
        case Where.HELD_UP:
            pend(life, containerStatuses=[{"name": "stage", "image": "stages:1", "state": {"waiting": text}}])
        case Where.SCHEDULER:
            pend(life, conditions=[{"type": "PodScheduled", "status": "False", **text}])
        case Where.EVENT:
            about = job_of(life) if seen.word == "FailedCreate" else life.programs.pending(job_of(life))
            tell(life, about, seen)
            life.clock.forward(10)
        case Where.LOG:
            fail(life, failure_of(RuntimeError(seen.text)))
        case Where.PEERS:
            said = failure_of(RuntimeError(seen.text))
            fail(life, root_cause([RankExit(0, 0.0, said)], {0: 70}, 70, ""))


def name_of(seen: Seen) -> str:
    return f"{seen.reason}: {seen.where.name} {seen.word} {seen.text[:60]}"


@pytest.mark.parametrize("seen", [seen for seen in ALL if seen.where is not Where.API], ids=name_of)
def test_what_is_seen_becomes_the_reason_and_what_follows(life: Life, seen: Seen) -> None:
    """Reason, hint, whether and when it is tried again, and whether that is charged, are those of its row.

    Where nothing has failed there is no hint: the sentence is the cluster's.
    """
    life.apply()
    life.look()
    happen(life, seen)
    life.look()
    assert life.ready() == ("False", seen.reason)
    stage = life.stage("fetch")
    stalled = life.condition("Stalled")["status"]
    then = (stage["state"], stalled, stage.get("failures", 0), stage.get("interruptions", 0))
    assert then == AFTER[seen.then]
    if seen.reason in _OWN_HINTS:
        assert "`ddpTimeoutSeconds`" in stage["hint"]
    else:
        assert stage.get("hint", "") == (REASONS[seen.reason].hint if seen.then in {LATER, NO} else "")
    assert seen.then == REASONS[seen.reason].retries[0].words
    life.wait(9)
    assert len(life.cluster.jobs("fetch")) == 1
    life.wait(2)  # ten seconds is the first wait
    assert len(life.cluster.jobs("fetch")) == (2 if seen.then in {LATER, AT_ONCE} else 1)
    life.wait(86_400)
    assert len(life.cluster.jobs("fetch")) == (2 if seen.then in {LATER, AT_ONCE} else 1)


def test_what_a_node_has_not_read_yet_is_no_reason(life: Life) -> None:
    """A busy kubelet says so of the ConfigMap of every new Pod, and tries again; what is lacking it says after that."""
    life.apply()
    life.look()
    about, failed = life.programs.pending(job_of(life)), 'MountVolume.SetUp failed for volume "config" : '
    late = "failed to sync configmap cache: timed out waiting for the condition"
    tell(life, about, Seen(Where.EVENT, "FailedMount", failed + late, "", WAITS))
    life.wait(10)
    assert life.ready() == ("False", "Pending")
    tell(life, about, Seen(Where.EVENT, "FailedMount", failed + 'configmap "x" not found', "", WAITS))
    life.wait(30)
    assert life.ready() == ("False", "VolumeNotMounted")


@pytest.mark.parametrize("seen", [seen for seen in ALL if seen.where is Where.API], ids=name_of)
def test_what_the_api_server_refuses(life: Life, seen: Seen) -> None:
    """The reason is read from its words; nothing has failed, and the Job is made as soon as it may be."""
    error = ApiError(403, seen.word, seen.text)
    life.cluster.refuse = lambda _verb, item: error if item["kind"] == JOBS.kind else None
    life.apply()
    asyncio.run(life.reconciler.reconcile(Key("default", "bot")))
    assert life.ready() == ("False", seen.reason)
    assert life.condition("Stalled")["status"] == "False"
    life.cluster.refuse = lambda _verb, _item: None
    life.run()
    assert life.ready() == ("True", "Succeeded")
    assert life.stage("fetch")["attempts"] == 1


@pytest.mark.parametrize(
    ("failure", "attempts_at"),
    [
        pytest.param("Unavailable", [10, 20, 40, 80, 160, 300, 300], id="later"),
        pytest.param("Interrupted", [10, 20, 40, 80, 160, 300, 300], id="at once, but it never lives"),
    ],
)
def test_each_try_in_vain_waits_twice_as_long(life: Life, failure: str, attempts_at: list[int]) -> None:
    """10 s, 20 s, 40 s and so on, at most 5 minutes."""
    life.apply()
    life.look()
    for seconds in attempts_at:
        row = REASONS[failure]
        (job,) = life.unfinished()
        life.programs.end(job, life.programs.start(job), Report(failure=Failure.of(row)), int(row.code))
        life.look()
        life.wait(seconds - 1)
        assert not life.unfinished()
        life.wait(1)
        assert life.unfinished()


def test_what_lived_is_begun_again_at_once(life: Life) -> None:
    """An interruption after half a minute costs no wait, and is no failure."""
    life.apply()
    life.look()
    pod = life.programs.start(job_of(life))
    life.wait(60)
    life.programs.end(job_of(life), pod, None, 143)
    life.look()
    assert len(life.cluster.jobs("fetch")) == 2
    assert not life.stage("fetch").get("failures")


def test_every_sign_is_seen() -> None:
    """No sign stands in the table that none of these inputs shows, and each shows the row that it belongs to."""
    rows = [(row, sign) for rows in GROUPS.values() for row in rows for sign in row.signs]
    unseen = [
        f"{row.names[0]}: {sign}"
        for row, sign in rows
        if sign.where not in _TOLD_BY_NAME
        and row.names[0] not in _BY_HAND
        and not any(
            seen.where is sign.where and seen.reason in row.names and sign.matches(seen.word, seen.text) for seen in ALL
        )
    ]
    assert unseen == []
