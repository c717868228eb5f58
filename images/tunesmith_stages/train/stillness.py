"""Finds out that a training no longer gets on: the parent's side of :mod:`.heartbeat`.

A checkpoint of a large model may take longer to write than a training may be still. So whoever is silent is looked at
again by what is on the volume: where files grow, something is done.

A rank that hangs, in a collective operation whose peer is elsewhere or in a driver, tells nobody. NCCL's own watchdog
sees some of these cases, and only after `ddpTimeoutSeconds`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.reasons.gpu import TIMED_OUT
from tunesmith_stages.train.exchange import Exchange

STALLED = TIMED_OUT.name
"""The reason with which a training ends that no longer gets on."""

TELL_WHERE = signal.SIGUSR1
"""At this signal a rank writes into its log where it is."""

_WORKER = "tunesmith_stages.train.worker"
_WRITE_SECONDS = 2.0
_START_SECONDS = 1800.0
"""How long the first sign of life may take at least: a large model is read from the volume before it."""


class Stillness:
    """Watches the signs of life."""

    def __init__(
        self,
        exchange: Exchange,
        limit: float,
        written: Iterable[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the folders in which what is `written` grows, and the seconds for which nothing may be done."""
        self._written = tuple(written)
        self._bytes: int | None = None
        self._exchange = exchange
        self._limit = limit
        self._clock = clock
        self._beat = exchange.last_beat
        self._since = clock()

    def check(self, process: subprocess.Popen[bytes]) -> None:
        """See whether the ranks that `process` has started live.

        Raises:
            StageError: there was no sign of life for too long. Each rank's log ends with where it stood.
        """
        beat, now = self._exchange.last_beat, self._clock()
        if beat != self._beat:
            self._go_on(beat, now)
        limit = self._limit if beat else max(self._limit, _START_SECONDS)
        if now - self._since > limit / 2 and self._bytes is None:
            self._bytes = _bytes_below(self._written)
        if now - self._since <= limit:
            return
        if self._bytes != _bytes_below(self._written):
            self._go_on(beat, now)
            return
        ask_where(process)
        raise StageError(
            ExitCode.TEMPORARY,
            f"the training did nothing for {limit / 60:g} minutes (`guards.stallMinutes`): a process hangs",
            reason=STALLED,
            hint="The logs rank-0.log and so on end with where each process stood. It is tried again, from its newest "
            "checkpoint. If single steps take so long, raise `guards.stallMinutes`.",
        )

    def _go_on(self, beat: float, now: float) -> None:
        self._beat, self._since, self._bytes = beat, now, None


def _bytes_below(folders: Iterable[Path]) -> int:
    """Return how much lies in the folders; what comes and goes meanwhile does not matter."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                with suppress(OSError):
                    total += (Path(place) / name).stat().st_size
    return total


def ask_where(process: subprocess.Popen[bytes]) -> None:
    """Have every rank below `process` write into its log where it is."""
    with suppress(psutil.Error):
        ranks = [child for child in psutil.Process(process.pid).children(recursive=True) if _is_rank(child)]
        for rank in ranks:
            rank.send_signal(TELL_WHERE)
        if ranks:
            time.sleep(_WRITE_SECONDS)


def _is_rank(process: psutil.Process) -> bool:
    """Return whether it is a rank that can take the signal: before it has made itself ready, that would end it."""
    with suppress(psutil.Error):
        return _WORKER in process.cmdline()
    return False
