"""What becomes of work that ended without its result: whether it is begun again, when, and whether that is counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """What becomes of work that ended for a reason, or that cannot begin for it."""

    words: str
    """For people: goes on "Tried again: "."""
    tried: bool
    """Whether it goes on without anybody's doing."""
    charged: bool = False
    """Whether it is counted as a failure, after each of which the next try waits longer."""
    first: int = 0
    """Seconds until the second try."""
    longest: int = 0
    """Seconds that a try waits at most."""

    def delay(self, before: int) -> int:
        """Return how many seconds to wait after so many tries in vain: twice as long after each."""
        return min(self.first << min(before, 10), self.longest)


NEVER = Retry("no", tried=False)
"""Somebody must act: edit the job, or ask for another try."""

LATER = Retry("later", tried=True, charged=True, first=10, longest=300)
"""It may pass: a new Job after 10 s, 20 s, 40 s, ... at most 5 minutes, for as long as it takes."""

AT_ONCE = Retry("at once", tried=True, first=10, longest=300)
"""It was ended from outside and is not to blame: a new Job at once. Only what has not lived for
:data:`SHORT_LIVED` seconds waits, as after a failure, so that what is ended again and again does not spin."""

SHORT_LIVED = 30
"""Seconds."""

WAITS = Retry("goes on by itself", tried=True)
"""Nothing has failed: its Pod is there, or is made as soon as what it waits for is."""
