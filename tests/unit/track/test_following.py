"""Reading a record while it grows."""

from __future__ import annotations

from pathlib import Path

from support.tracking import write_steps
from tunesmith_stages.track.following import Follower


def steps(follower: Follower) -> list[int]:
    return [event.step for event in follower.new(1.0)]


def test_each_line_once(tmp_path: Path) -> None:
    """A line comes when it is whole, and only then; a file that is not there yet is waited for."""
    file = tmp_path / "metrics.jsonl"
    follower = Follower(file)
    assert steps(follower) == []
    write_steps(file, 1, 2)
    assert steps(follower) == [1, 2]
    assert steps(follower) == []
    with file.open("a") as lines:
        lines.write('{"step": 3, "loss": 1.0')
        lines.flush()
        assert steps(follower) == []
        lines.write("}\n")
    assert steps(follower) == [3]


def test_a_record_that_begins_anew_is_read_anew(tmp_path: Path) -> None:
    """A training that goes back to a checkpoint replaces its record, by a shorter or a longer one."""
    file = tmp_path / "metrics.jsonl"
    follower = Follower(file)
    write_steps(file, 1, 4, "w")
    assert steps(follower) == [1, 2, 3, 4]
    write_steps(file, 1, 2, "w")
    assert steps(follower) == [1, 2]
    write_steps(file, 11, 19, "w")
    assert steps(follower) == [11, 12, 13, 14, 15, 15, 16, 17, 18, 19]


def test_an_event_has_its_own_time(tmp_path: Path) -> None:
    """A tracker that was down shows when a step was taken, not when it was told of it."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "time": 2.5, "loss": 3.0}\n')
    (event,) = Follower(file).new(5.0)
    assert (event.time, event.metrics) == (2.5, {"loss": 3.0})


def test_numbers_alone(tmp_path: Path) -> None:
    """What is no number is left out, what is no line of a record too; NaN is a number that people must see."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": NaN, "note": "x", "ok": true}\nnonsense\n{"loss": 1}\n[1]\n')
    (event,) = Follower(file).new(5.0)
    assert (event.step, event.time, list(event.metrics)) == (1, 5.0, ["loss"])
    assert event.metrics["loss"] != event.metrics["loss"]
