"""Passing on what is new, whatever the tracker does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from support.tracking import write_steps
from tunesmith_stages.track.asked import Ended, Event, TrackerDownError, TrackerRefusesError
from tunesmith_stages.track.following import Follower
from tunesmith_stages.track.relay import Relay


class Run:
    """A run that takes what it is given, unless something is wrong."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.tries = 0
        self.opened = 0
        self.taken: list[int] = []
        self.ended: Ended | None = None

    def _perhaps(self) -> None:
        self.tries += 1
        if self.trouble is not None:
            raise self.trouble

    def open(self) -> str:
        self._perhaps()
        self.opened += 1
        return "to be seen here"

    def send(self, events: Sequence[Event]) -> None:
        self._perhaps()
        self.taken += [event.step for event in events]

    def close(self, ended: Ended) -> str:
        self._perhaps()
        self.ended = ended
        return ""


class Training:
    """A training that goes on, second by second, while something happens at some of them; then it ends."""

    def __init__(self, folder: Path, happens: dict[int, object], seconds: int) -> None:
        self.file = folder / "metrics.jsonl"
        self.run = Run()
        self.notes: list[str] = []
        self.now = 0
        self._happens = happens
        self._seconds = seconds

    def wait(self, _seconds: float) -> Ended | None:
        self.now += 1
        if self.now >= self._seconds:
            return Ended.WELL
        if self.now in self._happens:
            trouble = self._happens[self.now]
            self.run.trouble = trouble if isinstance(trouble, Exception) else None
        write_steps(self.file, self.now, self.now)
        return None

    def relayed(self) -> Training:
        Relay(
            self.run, Follower(self.file), self.notes.append, clock=lambda: float(self.now), now=lambda: float(self.now)
        ).run(self.wait)
        return self


DOWN = TrackerDownError("it is down")
REFUSED = TrackerRefusesError("it says no", "Ask nicely.")


def once(steps: Sequence[int]) -> list[int]:
    return sorted(set(steps))


def test_everything_is_passed_on_and_the_end_is_told(tmp_path: Path) -> None:
    """A tracker that works is opened once, gets everything, and people are told once where."""
    training = Training(tmp_path, {}, 8).relayed()
    assert once(training.run.taken) == [1, 2, 3, 4, 5, 6, 7]
    assert training.run.opened == 1
    assert training.run.ended is Ended.WELL
    assert [note for note in training.notes if note] == ["to be seen here"]


def test_a_tracker_that_is_down_for_a_while_gets_everything_later(tmp_path: Path) -> None:
    """It is opened anew, so that what has arrived can be found out; people are told of both, once."""
    training = Training(tmp_path, {3: DOWN, 30: None}, 60).relayed()
    assert once(training.run.taken) == [*range(1, 60)]
    assert training.run.opened == 2
    notes = [note for note in training.notes if note]
    assert notes == [
        "to be seen here",
        "it is down; the training goes on, and what there is to tell is passed on later",
        "the tracker takes everything again",
    ]


def test_a_tracker_that_is_down_is_tried_ever_more_seldom(tmp_path: Path) -> None:
    """An hour of training asks a dead server about once a minute, and says so once at its beginning and its end."""
    training = Training(tmp_path, {1: DOWN}, 3600).relayed()
    assert 60 <= training.run.tries <= 70
    assert len(training.notes) == 2
    assert "all of it stays in metrics.jsonl" in training.notes[1]
    assert training.run.ended is None


def test_a_tracker_that_refuses_is_not_asked_again(tmp_path: Path) -> None:
    """One note says what to do."""
    training = Training(tmp_path, {4: REFUSED}, 60).relayed()
    assert training.notes[-1] == "it says no; the training goes on without. Ask nicely."
    assert training.run.tries < 10
    assert once(training.run.taken) == [1, 2, 3]


@pytest.mark.parametrize("trouble", [DOWN, REFUSED])
def test_a_tracker_that_fails_at_the_very_end(tmp_path: Path, trouble: Exception) -> None:
    """It is said, and nothing is raised."""
    training = Training(tmp_path, {}, 5)

    def refuse(_: Ended) -> str:
        raise trouble

    training.run.close = refuse  # type: ignore[assignment,method-assign]
    training.relayed()
    assert str(trouble) in training.notes[-1]
