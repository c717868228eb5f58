import math
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode, Failure
from tunesmith_stages.train.exchange import Exchange


def test_events_are_heard_once_and_whole(tmp_path: Path) -> None:
    """A line that is still being written waits until it is whole."""
    exchange = Exchange(tmp_path)
    exchange.folder.mkdir()
    assert exchange.listen() == []
    exchange.tell({"note": "ä"})
    with (exchange.folder / "events.jsonl").open("a") as file:
        file.write('{"note": ')
    assert exchange.listen() == [{"note": "ä"}]
    with (exchange.folder / "events.jsonl").open("a") as file:
        file.write('"b"}\n')
    assert exchange.listen() == [{"note": "b"}]
    assert exchange.listen() == []


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    """A volume that was full for a moment costs the lines of that moment, not the training."""
    exchange = Exchange(tmp_path)
    exchange.folder.mkdir()
    with (exchange.folder / "events.jsonl").open("a") as file:
        file.write('{"done": 1, "tot')
    exchange.tell({"note": "glued to it"})
    exchange.tell({"note": "whole"})
    assert exchange.listen() == [{"note": "whole"}]


def test_exits_come_back_in_order_of_time(tmp_path: Path) -> None:
    """What ended first is looked at first."""
    exchange = Exchange(tmp_path)
    exchange.folder.mkdir()
    first = Failure(ExitCode.BAD_DATA, "A", "first", "")
    exchange.leave_exit(3, first)
    exchange.leave_exit(0, Failure(ExitCode.INTERNAL, "B", "second", ""))
    assert [(left.rank, left.failure.message) for left in exchange.exits()] == [(3, "first"), (0, "second")]
    assert exchange.exits()[0].failure == first


def test_codes_keep_signals(tmp_path: Path) -> None:
    """Torchrun's own exit code hides what a rank ended with; ours does not."""
    exchange = Exchange(tmp_path)
    exchange.folder.mkdir()
    assert exchange.codes(0) == {}
    exchange.leave_codes(0, {1: -9, 0: 65})
    exchange.leave_codes(1, {2: 79})
    assert exchange.codes(0) == {0: 65, 1: -9}
    assert exchange.codes(1) == {2: 79}


def test_ranks_are_asked_to_end_by_their_own_node(tmp_path: Path) -> None:
    """Two nodes are told to end at moments of their own, and have times of their own to do it."""
    exchange = Exchange(tmp_path)
    exchange.folder.mkdir()
    assert exchange.seconds_left(0) == math.inf
    exchange.ask_to_end(1, 20)
    assert exchange.seconds_left(1) == pytest.approx(20, abs=5)
    assert exchange.seconds_left(0) == math.inf
