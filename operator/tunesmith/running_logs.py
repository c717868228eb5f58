"""What running programs write: the last lines of their logs, read now and then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tunesmith.core.observe import ObservedJob
from tunesmith.core.progress import Told, read_log
from tunesmith.kube.cluster import ApiError, Cluster
from tunesmith.kube.items import Key

log = logging.getLogger(__name__)

_INTERVAL = 10.0
_LONGEST_INTERVAL = 300.0
_LINES = 40
_NOTHING = Told()


@dataclass
class _Log:
    """What was last read of a running program's log."""

    pod: str
    read: float
    interval: float = _INTERVAL
    told: Told = _NOTHING


class RunningLogs:
    """The logs of the programs that run, by FineTuneJob."""

    def __init__(self, cluster: Cluster, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._now = now
        self._logs: dict[Key, _Log] = {}

    async def read(self, key: Key, job: ObservedJob) -> float:
        """Read on, at most every ten seconds, less often where that fails; return the seconds until the next time."""
        now = self._now().timestamp()
        known = self._logs.get(key)
        if known is None or known.pod != job.pod:
            known = self._logs[key] = _Log(job.pod, read=now - _INTERVAL / 2)
        due = known.read + known.interval - now
        if due > 0:
            return due
        known.read = now
        try:
            known.told = read_log(await self._cluster.pod_log(key.namespace, job.pod, lines=_LINES))
            known.interval = _INTERVAL
        except ApiError as error:
            log.debug("the log of %s could not be read: %s", job.pod, error)
            known.interval = min(2 * known.interval, _LONGEST_INTERVAL)
        return known.interval

    def told(self, key: Key) -> Told:
        """Return what a FineTuneJob's program that runs has told so far."""
        known = self._logs.get(key)
        return known.told if known is not None else _NOTHING

    def forget(self, key: Key) -> None:
        """Drop what was read for a FineTuneJob of which nothing runs any more."""
        self._logs.pop(key, None)
