"""The operator's process: waits for the Lease, fills the cache, and works until it loses the Lease or is stopped."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import platform
import signal
import time
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import kopf

from tunesmith import metrics
from tunesmith.api import keys
from tunesmith.api.settings import Settings
from tunesmith.core.conditions import Note
from tunesmith.events import event
from tunesmith.gc_metrics import show_clean_ups
from tunesmith.handlers import make_registry
from tunesmith.kube.cache import Cache, Key
from tunesmith.kube.client import KubeCluster, connect
from tunesmith.kube.cluster import FINETUNEJOBS, JOBS, PODS, ApiError, Listing, Object, Resource, T
from tunesmith.kube.items import about_key, ready_reason
from tunesmith.kube.lease import Lease
from tunesmith.queue import WorkQueue
from tunesmith.reconcile import Reconciler
from tunesmith.running_logs import LOG_READERS, RunningLogs, read_in_turn
from tunesmith.serve import serve

log = logging.getLogger(__name__)

_HEAD_START_SECONDS = 2.0
_RESYNC_SECONDS = 300
_RETRY_SECONDS = 2
_STUCK_SECONDS = 300
"""A worker that has one FineTuneJob for so long hangs."""
_MOST_NOTES = 1000
_LOG_PATIENCE_SECONDS = 5.0
"""So long each reader lets FineTuneJobs go first for which nothing has been begun."""


class Operator:
    """One replica."""

    def __init__(self, cluster: KubeCluster, settings: Settings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._queue: WorkQueue[Key] = WorkQueue(is_urgent=self._is_new)
        self._cache = Cache(wake=self._queue.add)
        self._notes: asyncio.Queue[tuple[Object, Note]] = asyncio.Queue(_MOST_NOTES)
        self._busy: dict[int, float] = {}
        self._leads = False
        self._synced = 0.0
        self._log_queue: WorkQueue[Key] = WorkQueue()
        self._logs = RunningLogs(cluster, read_after=self._log_queue.add_after, wake=self._queue.add)
        self._reconciler = Reconciler(
            cluster,
            self._cache,
            settings,
            now=lambda: datetime.now(UTC),
            tell=self._take_note,
            logs=self._logs,
            others_wait=self._queue.has_urgent,
        )

    # --- probes

    def unhealthy(self) -> str | None:
        """Return what is wrong with this process that a restart would mend."""
        stuck = [since for since in self._busy.values() if time.monotonic() - since > _STUCK_SECONDS]
        if stuck:
            return f"{len(stuck)} worker(s) have hung for more than {_STUCK_SECONDS} s"
        if self._leads and self._synced and time.monotonic() - self._synced > 3 * _RESYNC_SECONDS:
            return "the cluster could not be listed for a long time"
        return None

    def unready(self) -> str | None:
        """Return why this replica cannot do its part: work if it leads, else stand by."""
        if self._leads and not self._synced:
            return "the cache is being filled"
        return None

    # --- the work

    async def lead(self) -> None:
        """Work as the one active replica, until SIGTERM or until cancelled."""
        self._leads = True
        metrics.LEADER.set(1)
        metrics.QUEUE_DEPTH.set_function(self._queue.__len__)  # when it is asked for: also while all workers hang
        log.info("leading; filling the cache")
        there = await self._first_sync()
        log.info("the cache holds %d FineTuneJobs", len(self._cache.finetunejobs))
        await self._work_until_stopped(there)

    async def _work_until_stopped(self, there: Collection[Key]) -> None:
        namespaces = list(self._settings.watch_namespaces)
        beside = [self._queue.run_timers(), self._log_queue.run_timers(), self._resync(), self._post_notes()]
        calm = partial(self._queue.until_calm, _LOG_PATIENCE_SECONDS)
        beside += [read_in_turn(self._log_queue, self._logs, calm) for _ in range(LOG_READERS)]
        beside += [self._work(number) for number in range(self._settings.workers)]
        stream = kopf.operator(  # ends at SIGTERM
            registry=make_registry(self._cache, self._queue),
            clusterwide=not namespaces,
            namespaces=namespaces,
            standalone=True,
            identity=cast("Any", platform.node()),  # kopf would look up the name of the user, and a uid may have none
        )
        tasks = [asyncio.create_task(item) for item in beside]
        try:
            await self._begin_what_is_new(there)
            for key in there:
                self._queue.add(key)
            tasks.append(asyncio.create_task(stream))
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin_what_is_new(self, there: Collection[Key]) -> None:
        """Begin what nobody has seen yet, before all the others are looked at and kopf lists them once more.

        Both take seconds on a large cluster. What happens meanwhile kopf's list tells.
        """
        new = [key for key in there if self._is_new(key)]
        for key in new:
            self._queue.add(key)
        last = time.monotonic() + _HEAD_START_SECONDS
        while any(map(self._is_new, new)) and time.monotonic() < last:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.02)

    async def _first_sync(self) -> set[Key]:
        while True:
            try:
                return await self._sync()
            except ApiError as error:
                log.warning("the cluster could not be listed yet: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _sync(self) -> set[Key]:
        """Compare the cache with the cluster; return the FineTuneJobs of which something was not known or is gone."""
        # All are read before any is taken: what is taken is news but once.
        finetunejobs, jobs, pods, clean_ups = await asyncio.gather(
            self._list(FINETUNEJOBS, self._cache.read_finetunejob),
            self._list(JOBS, self._cache.read_job, keys.UID_LABEL),
            self._list(PODS, self._cache.read_pod, keys.UID_LABEL),
            self._list(PODS, lambda pod: pod, keys.GC_LABEL),
        )
        changed = self._cache.replace_finetunejobs(finetunejobs)
        changed |= self._cache.replace_jobs(jobs)
        changed |= self._cache.replace_pods(pods)
        self._synced = time.monotonic()
        metrics.SYNCED.set_to_current_time()
        self._count_jobs()
        show_clean_ups(clean_ups.items)
        return changed

    async def _list(self, resource: Resource, read: Callable[[Object], T], labels: str = "") -> Listing[T]:
        """List a kind in all namespaces that are watched; what is told for certain is as old as the oldest list."""
        namespaces = self._settings.watch_namespaces or (None,)
        lists = [await self._cluster.list_all(resource, namespace, read, labels=labels) for namespace in namespaces]
        return Listing([item for one in lists for item in one.items], min(one.version for one in lists))

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(_RESYNC_SECONDS)
            try:
                changed = await self._sync()
            except ApiError as error:
                log.warning("the cluster could not be listed: %s", error)
                continue
            for key in changed:
                self._queue.add(key)

    def _count_jobs(self) -> None:
        metrics.JOBS.clear()
        for item in self._cache.finetunejobs.values():
            metrics.JOBS.labels(ready_reason(item) or "New").inc()

    def _is_new(self, key: Key) -> bool:
        """Tell whether nothing has been begun yet for a FineTuneJob."""
        return self._cache.is_unseen(key) and not self._reconciler.has_begun(key)

    async def _work(self, number: int) -> None:
        while True:
            key = await self._queue.get()
            began = self._busy[number] = time.monotonic()
            failed = await self._look_at(key)
            del self._busy[number]
            metrics.RECONCILE_SECONDS.observe(time.monotonic() - began)
            delay = self._queue.done(key, failed=failed)
            if failed:
                log.debug("tried again in %.1f s", delay, extra=about_key(key))

    async def _look_at(self, key: Key) -> bool:
        """Bring a FineTuneJob a step further; tell whether that failed."""
        try:
            wake = await self._reconciler.reconcile(key)
        except ApiError as error:
            metrics.API_ERRORS.labels(str(error.status)).inc()
            metrics.RECONCILES.labels("refused").inc()
            log.warning("the API server refuses: %s", error, extra=about_key(key))
            return True
        except Exception:  # one job that cannot be handled must not end the others
            metrics.RECONCILES.labels("error").inc()
            log.exception("reconciling failed", extra=about_key(key))
            return True
        metrics.RECONCILES.labels("ok").inc()
        metrics.show_training(key.namespace, key.name, self._cache.finetunejobs.get(key))
        if key not in self._cache.finetunejobs:
            self._queue.forget(key)
        elif wake == 0:
            self._queue.add(key)
        elif wake is not None:
            self._queue.add_after(key, wake)
        return False

    # --- events

    def _take_note(self, item: Object, note: Note) -> None:
        with suppress(asyncio.QueueFull):  # Events are for people; the status is the record
            self._notes.put_nowait((item, note))

    async def _post_notes(self) -> None:
        while True:
            item, note = await self._notes.get()
            try:
                await self._cluster.create(event(item, note, datetime.now(UTC)))
            except ApiError as error:
                log.debug("an Event could not be told: %s", error, extra=about_key(Key("", item["metadata"]["name"])))


# --- the process -----------------------------------------------------------------------------------------------------


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the FineTuneJob and the stage that a line is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("namespace", "finetunejob", "stage"):
            if value := getattr(record, name, ""):
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logging(level: str) -> None:
    """Write structured logs to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("kopf", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


async def run_operator(settings: Settings, *, port: int) -> None:
    """Run until SIGTERM.

    Raises:
        LeaseLostError: another replica leads now; the process is to end, so that the next start begins afresh.
    """
    _collect_seldom()
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(connect())
        operator = Operator(cluster, settings)
        await stack.enter_async_context(serve(port, healthy=operator.unhealthy, ready=operator.unready))
        election = asyncio.create_task(_elect(cluster, operator, settings))
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # until kopf takes them over, when this replica leads
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        waiter = asyncio.create_task(stopped.wait())
        await asyncio.wait({election, waiter}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiter, election):
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        if election.done() and not election.cancelled():
            election.result()


def _collect_seldom() -> None:
    """Have Python look for garbage in cycles less often: each time it walks over the objects of the whole cluster.

    There is little of it, and what is in no cycle goes at once.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def lease_namespace(settings: Settings) -> str:
    """Return the namespace of the Lease: the one that is set, or that of this Pod."""
    if settings.lease_namespace:
        return settings.lease_namespace
    return _OWN_NAMESPACE.read_text(encoding="utf-8").strip() if _OWN_NAMESPACE.exists() else "default"


class LeaseLostError(RuntimeError):
    """Another replica leads now."""


async def _elect(cluster: KubeCluster, operator: Operator, settings: Settings) -> None:
    """Lead while the Lease is ours; return when the work ends because of SIGTERM."""
    lease = Lease(cluster, lease_namespace(settings), settings.lease_name, platform.node())
    await lease.acquire()
    work, kept = asyncio.create_task(operator.lead()), asyncio.create_task(lease.keep())
    try:
        await asyncio.wait({work, kept}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise LeaseLostError("another replica holds the Lease, or it could not be renewed")
        work.result()
    finally:
        for task in (work, kept):
            task.cancel()
        await asyncio.gather(work, kept, return_exceptions=True)
