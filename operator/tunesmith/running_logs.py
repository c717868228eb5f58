"""What programs write: the last lines of their logs, read now and then while they run, and once more if they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tunesmith.core.log_tail import tail_of
from tunesmith.core.observe import ObservedJob, Phase
from tunesmith.core.progress import Told, read_log
from tunesmith.core.record import ACTIVE, StageRecord
from tunesmith.kube.cluster import ApiError, Cluster
from tunesmith.kube.items import Key, about_key
from tunesmith.queue import WorkQueue
from tunesmith_stages.contract import StageName

log = logging.getLogger(__name__)

LOGS_PER_SECOND = 20
"""So many are read in a second, at most: with hundreds of programs that run, each is read less often."""
LOG_READERS = 4
"""Logs that are read at once, at most: a node that does not answer keeps a reader for half a minute."""
_INTERVAL = 10.0
_LONGEST_INTERVAL = 300.0
_LINES = 40
_NOTHING = Told()


def _failed_now(job: ObservedJob, record: StageRecord) -> bool:
    return job.phase is Phase.FAILED and not job.lookup and job.name == record.job and record.state in ACTIVE


@dataclass
class _Log:
    """What was last read of a running program's log."""

    pod: str
    interval: float = _INTERVAL
    told: Told = _NOTHING
    tail: str = ""


class RunningLogs:
    """The logs of the programs that run, by FineTuneJob.

    They are not read by whoever looks at a FineTuneJob: a node that does not answer would hold up all the others.
    """

    def __init__(
        self, cluster: Cluster, *, read_after: Callable[[Key, float], None], wake: Callable[[Key], None]
    ) -> None:
        """Read logs of a cluster.

        Args:
            cluster: what is asked.
            read_after: has :meth:`read` called for a FineTuneJob in so many seconds at the latest.
            wake: is told of which FineTuneJob there is something new.
        """
        self._cluster = cluster
        self._read_after = read_after
        self._wake = wake
        self._logs: dict[Key, _Log] = {}

    def follow(self, key: Key, pod: str) -> None:
        """Have the log of a FineTuneJob's Pod read every ten seconds from now on, less often where very many run."""
        known = self._logs.get(key)
        if known is None or known.pod != pod:
            self._logs[key] = _Log(pod)
            self._read_after(key, _INTERVAL / 2)

    async def read(self, key: Key) -> None:
        """Read the end of a FineTuneJob's log, if it is still followed, and have it read again."""
        known = self._logs.get(key)
        if known is None:
            return
        usual, told = max(_INTERVAL, len(self._logs) / LOGS_PER_SECOND), known.told
        try:
            text = await self._cluster.pod_log(key.namespace, known.pod, lines=_LINES)
            known.tail, known.told = tail_of(text), read_log(text)
            known.interval = usual
        except ApiError as error:
            log.debug("the log of %s could not be read: %s", known.pod, error)
            known.interval = min(max(2 * known.interval, usual), _LONGEST_INTERVAL)
        if self._logs.get(key) is not known:
            return  # another Pod is followed by now
        self._read_after(key, known.interval)
        if known.told != told:
            self._wake(key)

    async def with_tails(
        self, key: Key, jobs: Sequence[ObservedJob], records: Mapping[StageName, StageRecord]
    ) -> list[ObservedJob]:
        """Return Jobs, those with their last words that failed since the records were written."""
        return [
            replace(job, log_tail=await self._tail(key, job)) if _failed_now(job, records[job.stage]) else job
            for job in jobs
        ]

    async def _tail(self, key: Key, job: ObservedJob) -> str:
        """Return the last lines of a Job that failed; of a Pod that is gone or cut off, those that were read before.

        A node that ended its Pods is not asked: it may be lost, and who asks it would wait for that to be noticed.
        """
        known = self._logs.get(key)
        tail = known.tail if known is not None and job.pod in {"", known.pod} else ""
        if job.pod and not job.interrupted:
            try:
                text = await self._cluster.pod_log(key.namespace, job.pod, lines=_LINES)
            except ApiError as error:
                log.debug("the log of %s could not be read: %s", job.pod, error)
            else:
                tail = tail_of(text) if text else tail
        return tail

    def told(self, key: Key) -> Told:
        """Return what a FineTuneJob's program that runs has told so far."""
        known = self._logs.get(key)
        return known.told if known is not None else _NOTHING

    def forget(self, key: Key) -> None:
        """Drop what was read for a FineTuneJob of which nothing runs any more."""
        self._logs.pop(key, None)


async def read_in_turn(queue: WorkQueue[Key], logs: RunningLogs, until_calm: Callable[[], Awaitable[None]]) -> None:
    """Read logs that are due, for ever: one of :data:`LOG_READERS`, which keep to :data:`LOGS_PER_SECOND` together.

    Also when thousands are due at once, as after a burst of new FineTuneJobs: `until_calm` returns when those have
    gone first for long enough.
    """
    while True:
        key = await queue.get()
        await until_calm()
        await asyncio.gather(_read(logs, key), asyncio.sleep(LOG_READERS / LOGS_PER_SECOND))
        queue.done(key)


async def _read(logs: RunningLogs, key: Key) -> None:
    try:
        await logs.read(key)
    except Exception:  # one log that cannot be understood must not end the reading of the others
        log.exception("reading a log failed", extra=about_key(key))
