"""One replica at a time, by a Lease (https://kubernetes.io/docs/concepts/architecture/leases/).

As in client-go, clocks of different machines are never compared: a Lease counts as expired when it has not changed for
its whole duration as this process has seen it. Two leaders at once, for a moment, are possible and do no harm.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from tunesmith.kube.cluster import LEASES, ApiError, Cluster, Object

log = logging.getLogger(__name__)

DURATION = 15.0
"""Seconds after which a Lease that is not renewed may be taken over."""
RENEW_DEADLINE = 10.0
"""Seconds without a renewal after which the holder stops working."""
RETRY = 2.0


class Lease:
    """A Lease that this replica wants, under the name `identity`."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, identity: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen: tuple[str, float] = ("", 0.0)  # resource version, and since when

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while not await self._take():  # noqa: ASYNC110 - it is polled, as every client of Leases does
            await asyncio.sleep(RETRY)

    async def keep(self) -> None:
        """Renew the Lease; return when that has not been possible for too long, or when somebody else has it."""
        renewed = time.monotonic()
        while time.monotonic() - renewed < RENEW_DEADLINE:
            await asyncio.sleep(RETRY)
            if await self._take():
                renewed = time.monotonic()

    async def _take(self) -> bool:
        try:
            return await asyncio.wait_for(self._try_to_take(), RENEW_DEADLINE / 2)
        except (ApiError, TimeoutError) as error:
            log.warning("the Lease could not be taken or renewed: %s", error)
            return False

    async def _try_to_take(self) -> bool:
        lease = await self._cluster.get(LEASES, self._namespace, self._name)
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if lease is None:
            await self._cluster.create(self._new(now))
            return True
        spec = lease.setdefault("spec", {})
        holder = spec.get("holderIdentity")
        if holder and holder != self._identity and not self._has_expired(lease):
            return False
        if holder != self._identity:
            spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        spec |= {"holderIdentity": self._identity, "renewTime": now, "leaseDurationSeconds": int(DURATION)}
        try:
            await self._cluster.replace(lease)
        except ApiError as error:
            if error.conflict:
                return False
            raise
        return True

    def _has_expired(self, lease: Object) -> bool:
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, time.monotonic())
        return time.monotonic() - self._seen[1] > DURATION

    def _new(self, now: str) -> Object:
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(DURATION),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }
