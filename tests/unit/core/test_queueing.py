"""What is said of a stage in a queue, by the Workload that Kueue made of its Job."""

from __future__ import annotations

from typing import Any

import pytest

from support.workloads import NO_ROOM, PENDING, PREEMPTED, pending_workloads, workload
from tunesmith.core.queueing import Place, places, queue_of, why_queued

JOB: dict[str, Any] = {
    "metadata": {"name": "bot", "namespace": "team-a", "uid": "1", "labels": {"kueue.x-k8s.io/queue-name": "gpus"}}
}
EVICTED = {"Evicted": ("True", "Preempted", PREEMPTED)}
TAKEN_BACK = f"train was taken back by the queue ({PREEMPTED}) and waits in LocalQueue 'gpus'"

CASES: dict[str, tuple[dict[str, tuple[str, str, str]], Place | None, str, str]] = {
    "nothing known yet": ({}, None, "Queued", "train waits in LocalQueue 'gpus'"),
    "no room": (PENDING, None, "Queued", f"train waits in LocalQueue 'gpus': {NO_ROOM}"),
    "no room, with its place": (
        PENDING,
        Place(2, 7),
        "Queued",
        f"train waits in LocalQueue 'gpus', place 2 there and 7 in its ClusterQueue: {NO_ROOM}",
    ),
    "no such queue": (
        {"QuotaReserved": ("False", "Inadmissible", "LocalQueue gpus doesn't exist")},
        None,
        "Inadmissible",
        "LocalQueue 'gpus' cannot admit train: LocalQueue gpus doesn't exist",
    ),
    "preempted, just now": (
        {**EVICTED, "QuotaReserved": ("False", "Pending", PREEMPTED)},
        None,
        "Queued",
        TAKEN_BACK,
    ),
    "preempted, and looked at again": (
        {**EVICTED, **PENDING},
        Place(1, 1),
        "Queued",
        f"{TAKEN_BACK}, place 1 there and 1 in its ClusterQueue: {NO_ROOM}",
    ),
    "an eviction that is over": (
        {"Evicted": ("False", "Preempted", PREEMPTED), **PENDING},
        None,
        "Queued",
        f"train waits in LocalQueue 'gpus': {NO_ROOM}",
    ),
    "admitted": (
        {"QuotaReserved": ("True", "QuotaReserved", "yes"), "Admitted": ("True", "Admitted", "yes")},
        None,
        "Queued",
        "LocalQueue 'gpus' has admitted train; it is about to start",
    ),
    "given up": (
        {"Finished": ("True", "FailedToStart", "conflict for nodeSelector gpu")},
        None,
        "Inadmissible",
        "Kueue has given Workload job-bot-1 up: conflict for nodeSelector gpu",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said(case: str) -> None:
    """Reason and sentence: the queue, the place in it, and why it is not admitted, in Kueue's words."""
    conditions, place, reason, message = CASES[case]
    said = why_queued("train", "gpus", workload(JOB, conditions), place)
    assert (said.reason, said.message) == (reason, message)


def test_places_are_counted_from_one() -> None:
    """Kueue counts from 0, in the LocalQueue and in the ClusterQueue."""
    told = places(pending_workloads("gpus", "team-a", {"first": (0, 0), "second": (1, 4)}))
    assert told == {"first": Place(1, 1), "second": Place(2, 5)}
    assert places({"items": None}) == {}


@pytest.mark.parametrize("missing", ["positionInLocalQueue", "positionInClusterQueue"])
@pytest.mark.parametrize("null", [False, True], ids=["not there", "null"])
def test_a_place_that_is_not_told_is_not_made_up(missing: str, *, null: bool) -> None:
    """Without one of its two positions nothing is said of a Workload's place, least of all that it is the first."""
    summary = pending_workloads("gpus", "team-a", {"first": (0, 0), "second": (1, 4)})
    summary["items"][1].pop(missing)
    summary["items"][1].update({missing: None} if null else {})
    assert places(summary) == {"first": Place(1, 1)}


def test_checks_that_are_not_passed_are_named() -> None:
    """Quota is reserved and an admission check is left: it stands in the sentence, one that is passed does not."""
    held = workload(JOB, {"QuotaReserved": ("True", "QuotaReserved", "yes")})
    held["status"]["admissionChecks"] = [{"name": "nodes", "state": "Pending"}, {"name": "money", "state": "Ready"}]
    said = why_queued("train", "gpus", held)
    assert said.reason == "Queued"
    assert "nodes (Pending)" in said.message
    assert "money" not in said.message


def test_a_workload_that_is_not_active_is_not_waited_for_in_silence() -> None:
    """Somebody, or a limit, has taken it out of the queue: what brings it back is said."""
    evicted = {"Evicted": ("True", "Deactivated", "The workload is deactivated")}
    said = why_queued("train", "gpus", workload(JOB, {**evicted, **PENDING}, active=False))
    assert said.reason == "Inadmissible"
    assert "job-bot-1 is not active (The workload is deactivated)" in said.message
    assert "`spec.active`" in said.message


def test_the_queue_is_the_one_of_the_label() -> None:
    """Kueue may have put the namespace's default queue there; without a label there is none."""
    assert queue_of(JOB) == "gpus"
    assert queue_of({"metadata": {"name": "bot"}}) == ""
