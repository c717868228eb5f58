"""When silence is a hang."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunesmith_stages.program import StageError
from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.stillness import Stillness

LIMIT = 600.0


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    made = Exchange(tmp_path)
    made.folder.mkdir()
    made.beat()
    return made


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a launcher without ranks."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made


def minutes(stillness: Stillness, clock: Clock, process: subprocess.Popen[bytes], count: int) -> None:
    """Let minutes go by, looking each time."""
    for _ in range(count):
        clock.now += 60
        stillness.check(process)


def test_silence_is_a_hang(tmp_path: Path, exchange: Exchange, process: subprocess.Popen[bytes]) -> None:
    """What lies there and does not grow is no sign of life."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights").write_bytes(b"0" * 100)
    clock = Clock()
    stillness = Stillness(exchange, LIMIT, (tmp_path / "checkpoints",), clock)
    minutes(stillness, clock, process, 10)
    with pytest.raises(StageError, match="did nothing for 10 minutes"):
        minutes(stillness, clock, process, 1)


def test_a_long_save_is_none(tmp_path: Path, exchange: Exchange, process: subprocess.Popen[bytes]) -> None:
    """As long as files grow something is done, however long it takes; once they no longer do, it hangs."""
    staged = tmp_path / "checkpoints" / "step-5.1"
    staged.mkdir(parents=True)
    clock = Clock()
    stillness = Stillness(exchange, LIMIT, (tmp_path / "checkpoints", tmp_path / "nowhere"), clock)
    for written in range(1, 40):
        (staged / "optimizer").write_bytes(b"0" * written)
        minutes(stillness, clock, process, 1)
    with pytest.raises(StageError, match="a process hangs"):
        minutes(stillness, clock, process, 25)
