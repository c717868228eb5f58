"""The day that a server writes into prompts whose template asks for it: today by its own clock, in its own zone.

transformers lets templates ask for this process's time and takes no other clock, so it is the zone that is changed
while a template is rendered (tzset(3)).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ASKS = "strftime_now"
"""The function that a template calls for it."""

_ZONES = ("", "UTC0", "UTC24", "UTC-24")
"""This process's own, and those in which it is today, yesterday and tomorrow for whoever goes by UTC."""


class ServingDay:
    """Stands for the clock of a server: first this machine's, then the one that was found out."""

    def __init__(self) -> None:
        self._zone = ""

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Have it be that day for this process."""
        if not self._zone:
            yield
            return
        before = os.environ.get("TZ")
        _set_zone(self._zone)
        try:
            yield
        finally:
            _set_zone(before)

    def settle(self, render: Callable[[], str], found: str) -> None:
        """Take the day on which `render` gives what the server made, if there is one."""
        for self._zone in _ZONES:
            if render() == found:
                return
        self._zone = ""


def _set_zone(zone: str | None) -> None:
    if zone is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = zone
    time.tzset()
