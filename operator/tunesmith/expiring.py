"""Removes the ended Jobs of a FineTuneJob, and what belongs to them, when they have been kept for long enough.

Nothing is made again for it: what the stages came to stands in the FineTuneJob's status and on the volume.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tunesmith.core.expiry import seconds_until_expiry
from tunesmith.core.pod_state import conditions_of
from tunesmith.kube.cache import Cache
from tunesmith.kube.cluster import CONFIG_MAPS, JOBS, SERVICES, Cluster, Object
from tunesmith.kube.items import about

log = logging.getLogger(__name__)


async def remove_expired(
    cluster: Cluster, cache: Cache, item: Object, status: Mapping[str, Any], ttl: int, now: datetime
) -> float | None:
    """Remove the ended Jobs of a FineTuneJob if they have been kept for `ttl` seconds since its end.

    Returns:
        The seconds until they have been; None if there is nothing to wait for.

    Raises:
        ApiError: the API server refuses.
    """
    meta = item["metadata"]
    ended = [job for job in cache.jobs_of(meta["namespace"], meta["uid"]) if _has_ended(job)]
    wait = seconds_until_expiry(status, ttl, [_end(job) for job in ended], now) if ended else None
    if wait is None or wait > 0:
        return wait
    for job in ended:
        name = job["metadata"]["name"]
        log.info("removing Job %s, kept for %d s", name, ttl, extra=about(item))
        await cluster.delete(CONFIG_MAPS, meta["namespace"], name)
        if job["spec"]["completions"] > 1:
            await cluster.delete(SERVICES, meta["namespace"], name)
        await cluster.delete(JOBS, meta["namespace"], name)
    return None


def _has_ended(job: Object) -> bool:
    return _end(job) != "" and not job["metadata"].get("deletionTimestamp")


def _end(job: Object) -> str:
    """Return when a Job ended; `at some time` if it does not say; empty if it has not."""
    conditions = conditions_of(job)
    ended = conditions.get("Complete") or conditions.get("Failed")
    return str(ended.get("lastTransitionTime") or "at some time") if ended else ""
