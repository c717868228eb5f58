"""Passes on to the tracker what is new, and puts up with a tracker that is down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tunesmith_stages.track.asked import Ended, Event, Tracker, TrackerDownError, TrackerRefusesError
from tunesmith_stages.track.following import Follower

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_FIRST_WAIT = 5.0
_LONGEST_WAIT = 60.0
"""Seconds until a tracker that is down is tried again: doubled each time."""


class Relay:
    """Between a ``metrics.jsonl`` and a tracker."""

    def __init__(
        self,
        tracker: Tracker,
        follower: Follower,
        note: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._tracker = tracker
        self._follower = follower
        self._note = note
        self._clock = clock
        self._now = now
        self._held: list[Event] = []
        self._is_open = False
        self._said = ""
        self._down = False
        self._wait = 0.0
        self._again = 0.0

    def run(self, wait_for_end: Callable[[float], Ended | None]) -> None:
        """Pass on what comes until the training has ended; `wait_for_end` waits for that so many seconds at most."""
        try:
            ended = None
            while ended is None:
                ended = wait_for_end(_LOOK_SECONDS)
                if ended is None and self._clock() >= self._again:
                    self._try()
            self._finish(ended)
        except TrackerRefusesError as error:
            self._note(f"{error}; the training goes on without. {error.hint}")

    def _try(self) -> bool:
        """Pass on everything that there is; say whether that worked."""
        try:
            self._pass_on()
        except TrackerDownError as error:
            self._wait = min(max(_FIRST_WAIT, 2 * self._wait), _LONGEST_WAIT)
            self._again = self._clock() + self._wait
            self._is_open = False
            log.warning("%s; next try in %.0f s", error, self._wait)
            if not self._down:
                self._down = True
                self._note(f"{error}; the training goes on, and what there is to tell is passed on later")
            return False
        if self._down:
            self._note("the tracker takes everything again")
        self._down, self._wait = False, 0.0
        return True

    def _pass_on(self) -> None:
        if not self._is_open:
            where = self._tracker.open()
            self._is_open = True
            if where != self._said:
                self._note(where)
                self._said = where
        while True:
            # The file keeps what is not read yet, so little is held here however long the tracker is down.
            self._held = self._held or self._follower.new(self._now())
            if not self._held:
                return
            self._tracker.send(self._held)
            self._held = []

    def _finish(self, ended: Ended) -> None:
        """Pass on the rest, in one try, and close the run."""
        if not self._try():
            self._note("the tracker does not have everything of this run; all of it stays in metrics.jsonl")
            return
        try:
            self._note(self._tracker.close(ended))
        except TrackerDownError as error:
            self._note(f"{error}; the tracker was not told how the training ended")
