"""Which log `kubectl tunesmith logs` shows."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.cli.kubectl.choosing import Choice, choose, newest_try
from tunesmith.cli.kubectl.errors import SaidError
from unit.cli.kubectl.items import job_name, stage

DONE = [
    stage("fetch", "Succeeded", 1, startTime="2026-05-04T10:00:00Z"),
    stage("prepare", "Succeeded", 1, startTime="2026-05-04T10:05:00Z"),
    stage("rehearse", "Succeeded", 2, startTime="2026-05-04T10:09:00Z"),
    stage("train", "Succeeded"),
]
RUNNING = [*DONE[:3], stage("train", "Running", 3, startTime="2026-05-04T10:10:00Z"), stage("convert", "Waiting")]
FAILED = [*DONE[:3], stage("train", "Failed", 1), stage("convert", "Waiting")]
WAITING = [*DONE[:3], stage("train", "Waiting", 2, startTime="2026-05-04T10:10:00Z"), stage("convert", "Waiting")]
AGAIN = [stage("fetch", "Succeeded", 2, startTime="2026-05-04T11:00:00Z"), *DONE[1:3], stage("train", "Waiting")]

CHOICES: dict[str, tuple[list[Any], str | None, str | None, Choice]] = {
    "the one that runs": (RUNNING, None, None, Choice("train", job_name("train", 3))),
    "the one whose Job waits for a node": (
        [*DONE[:3], stage("train", "Pending", 1)],
        None,
        None,
        Choice("train", job_name("train", 1)),
    ),
    "the one that is looked up": (
        [*DONE[:2], stage("train", "Unknown", 1)],
        None,
        None,
        Choice("train", job_name("train", 1)),
    ),
    "the one that failed": (FAILED, None, None, Choice("train", job_name("train", 1))),
    "one that runs, before one that failed": (
        [stage("fetch", "Running", 2), *DONE[1:3], stage("train", "Failed", 1)],
        None,
        None,
        Choice("fetch", job_name("fetch", 2)),
    ),
    "the one that is tried again later": (WAITING, None, None, Choice("train", job_name("train", 2))),
    "the last that ran, if all is done": (DONE, None, None, Choice("rehearse", job_name("rehearse", 2))),
    "the last that ran by the clock": (AGAIN, None, None, Choice("fetch", job_name("fetch", 2))),
    "the one that is named": (RUNNING, "prepare", None, Choice("prepare", job_name("prepare", 1))),
    "an earlier attempt": (RUNNING, "train", "1", Choice("train", job_name("train", 1))),
    "the attempt of the one that runs": (RUNNING, None, "2", Choice("train", job_name("train", 2))),
    "a Job by its name": (RUNNING, None, job_name("train", 3), Choice("train", job_name("train", 3))),
    "a pod of the newest try": (
        RUNNING,
        None,
        f"{job_name('train', 3)}-x7k2p",
        Choice("train", f"{job_name('train', 3)}-x7k2p"),
    ),
    "a pod of an earlier try": (
        RUNNING,
        None,
        f"{job_name('train', 1)}-x7k2p",
        Choice("", f"{job_name('train', 1)}-x7k2p"),
    ),
    "a log of another life of this name": (RUNNING, "train", "older-log", Choice("train", "older-log")),
}


@pytest.mark.parametrize(("stages", "named", "attempt", "wanted"), CHOICES.values(), ids=CHOICES)
def test_chosen(stages: list[Any], named: str | None, attempt: str | None, wanted: Choice) -> None:
    """What is not said is what somebody who looks now wants to see."""
    assert choose({"stages": stages}, named, attempt) == wanted


REFUSED: dict[str, tuple[list[Any], str | None, str | None, str, str]] = {
    "no stage has run": ([stage("fetch", "Waiting")], None, None, "No stage has run", "`--list`"),
    "no status": ([], None, None, "No stage has run", "`kubectl tunesmith status`"),
    "a stage that is not there yet": (RUNNING, "convert", None, "convert has not begun yet", "`--list`"),
    "a stage that the status does not know": (RUNNING, "register", None, "register has not begun yet", "`--list`"),
    "a stage that was found": (DONE, "train", None, "its results were on the volume already", "`--list`"),
    "an attempt that was not": (RUNNING, "train", "4", "train has no attempt 4: it was tried 3 times", "`--list`"),
    "attempt 0": (RUNNING, "fetch", "0", "fetch has no attempt 0: it was tried once", "`--list`"),
}


@pytest.mark.parametrize(("stages", "named", "attempt", "what", "hint"), REFUSED.values(), ids=REFUSED)
def test_nothing_to_choose(stages: list[Any], named: str | None, attempt: str | None, what: str, hint: str) -> None:
    """Who asks for a log that cannot be there is told why, and how to see what is there."""
    with pytest.raises(SaidError) as refused:
        choose({"stages": stages}, named, attempt)
    assert what in refused.value.what
    assert hint in refused.value.hint


BELONGS = {
    "the Job": (job_name("train", 3), "train"),
    "its pod": (f"{job_name('train', 3)}-0-abcde", "train"),
    "an earlier one": (job_name("train", 2), None),
    "one whose number begins alike": (job_name("train", 31), None),
    "of nobody": ("", None),
}


@pytest.mark.parametrize(("attempt", "wanted"), BELONGS.values(), ids=BELONGS)
def test_newest_try(attempt: str, wanted: str | None) -> None:
    """An attempt is a stage's newest if it has the Job's name, or a pod's name below it."""
    assert newest_try({"stages": RUNNING}, attempt).get("name") == wanted
