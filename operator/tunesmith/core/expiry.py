"""When the ended Jobs of a FineTuneJob have been kept for as long as its `ttlSecondsAfterFinished` says.

The time runs from when the FineTuneJob itself came to its end, which its status tells, not from the end of each Job:
so none of them goes while others still run, nor before the operator has read what it reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from tunesmith.core.times import to_time

_ENDS = ("Ready", "Stalled")


def seconds_until_expiry(status: Mapping[str, Any], ttl: int, ended: Iterable[str], now: datetime) -> float | None:
    """Return the seconds until its ended Jobs may go: 0 if they may now, None if the FineTuneJob has not ended.

    Args:
        status: of the FineTuneJob.
        ttl: its `ttlSecondsAfterFinished`.
        ended: when its Jobs ended, as far as they say so.
        now: the time. If the status tells of a later one the clock was wrong then, or is now; what counts is when the
            last Job ended, or else now.
    """
    since = _ended_at(status)
    if since is None:
        return None
    if since > now:
        past = [time for time in map(to_time, ended) if time is not None and time <= now]
        since = max(past, default=now)
    return max(0.0, ttl - (now - since).total_seconds())


def _ended_at(status: Mapping[str, Any]) -> datetime | None:
    conditions = status.get("conditions") or ()
    ends = (item for item in conditions if item.get("type") in _ENDS and item.get("status") == "True")
    times = [time for item in ends if (time := to_time(str(item.get("lastTransitionTime", "")))) is not None]
    return max(times, default=None)
