"""A whole clean-up of a volume: look at what lies there, ask for the jobs, mark; remove, asking again meanwhile."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tunesmith.core.retention import Entry, Needs, Rules, Verdict, mark
from tunesmith.housekeeping.inventory import inventory
from tunesmith.housekeeping.jobs import held_now
from tunesmith.housekeeping.sweep import Removal, last_use_now, sweep
from tunesmith_stages.volume import Volume

_ASK_AGAIN = 5.0
"""Seconds for which an answer to the question what the jobs need is believed while things are removed."""


class Collector:
    """Cleans one volume up.

    Args:
        volume: which one.
        needs: tells what every job needs now; raises if that cannot be told, and then nothing is removed.
        grace: seconds since its last use for which everything stays.
        keep_logs: so many attempts' logs stay, of each stage of a job.
    """

    def __init__(self, volume: Volume, needs: Callable[[], Collection[Needs]], *, grace: float, keep_logs: int) -> None:
        self._volume = volume
        self._needs = needs
        self._rules = Rules(now=time.time(), grace=grace, keep_logs=keep_logs)
        self._entries: Sequence[Entry] = ()
        self._useless: set[str] = set()
        self._asked = 0.0

    def verdicts(self) -> list[Verdict]:
        """Return what stays and what goes. Changes nothing.

        Raises:
            OSError: the volume cannot be looked at.
            Exception: whatever says that the jobs are not known.
        """
        # First the volume, then the jobs: what a job has made since then is not among the entries.
        self._entries = inventory(self._volume)
        return self._mark()

    def remove(self, verdicts: Sequence[Verdict]) -> Iterator[Removal]:
        """Remove what is to go, and yield what became of each thing.

        Raises:
            OSError: the volume cannot be looked at any more.
            Exception: the jobs cannot be asked for any more; nothing further is removed then.
        """
        if any(not verdict.keeps for verdict in verdicts):
            self._rules = replace(self._rules, now=_clock_of(self._volume))
            yield from sweep(self._volume, verdicts, self._is_still_useless)

    def _mark(self) -> list[Verdict]:
        marked = mark(self._entries, self._needs(), held_now(self._volume), self._rules)
        self._asked = time.monotonic()
        self._useless = {verdict.entry.path for verdict in marked if not verdict.keeps}
        return marked

    def _is_still_useless(self, entry: Entry) -> bool:
        if time.monotonic() - self._asked > _ASK_AGAIN:
            self._mark()
        unused = self._rules.now - last_use_now(self._volume, entry) >= self._rules.grace
        return unused and entry.path in self._useless


def _clock_of(volume: Volume) -> float:
    """Return the time by the clock that gives the volume's files theirs, which may be a server's."""
    probe: Path = volume.root / "stages" / f".now-{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except FileNotFoundError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()
