"""The calls of one operator, of which some fail: before they had an effect, or after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from faults.checked import CheckedCluster, Told
from tunesmith.kube.cluster import FINETUNEJOBS, ApiError, Cluster, Listing, Object, Resource, T

_Answer = TypeVar("_Answer")


class KilledError(BaseException):
    """The operator's process ends at this call."""


BEFORE: Mapping[str, Callable[[], BaseException]] = {
    "no answer": lambda: ApiError(0, "", "the connection was reset"),
    "gone": lambda: ApiError(410, "Expired", "too old resource version"),
    "too many": lambda: ApiError(429, "TooManyRequests", "slow down"),
    "broken": lambda: ApiError(500, "InternalError", "etcd has no leader"),
    "unavailable": lambda: ApiError(503, "ServiceUnavailable", "starting"),
    "forbidden": lambda: ApiError(403, "Forbidden", "RBAC: clusterrole not found"),
    "killed": KilledError,
}
"""What a call can fail with that had no effect."""
AFTER: Mapping[str, Callable[[], BaseException]] = {
    "no answer": lambda: ApiError(0, "", "the connection was reset"),
    "timeout": lambda: ApiError(504, "Timeout", "request did not complete within the allotted timeout"),
    "killed": KilledError,
}
"""What can be wrong with the answer to a call that had its effect."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one call."""

    error: BaseException
    took_effect: bool
    """Whether the server did what was asked; the answer alone was lost."""


class UnreliableCluster(Cluster):
    """Passes the calls of one operator on, but for those that fail."""

    def __init__(self, cluster: CheckedCluster, asked: list[tuple[str, str]]) -> None:
        """`asked` takes verb and kind of each call."""
        self._cluster = cluster
        self._asked = asked
        self.listed = 0
        self.read: dict[str, tuple[Object, Told]] = {}
        self.faults: dict[int, Fault] = {}
        """By number of the call, from now on, what goes wrong with it."""
        self.calls = 0

    def fail(self, fault: Fault, after: int = 0) -> None:
        """Have a call fail, once `after` others have gone through."""
        self.faults[self.calls + after] = fault

    def restart(self, error: Callable[[], BaseException], calls: int) -> None:
        """Have so many calls fail one after the other, as while an API server starts."""
        for number in range(calls):
            self.fail(Fault(error(), took_effect=False), number)

    async def _ask(self, verb: str, kind: str, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        await asyncio.sleep(0)  # the other operator goes on meanwhile
        self._asked.append((verb, kind))
        fault = self.faults.pop(self.calls, None)
        self.calls += 1
        if fault is None:
            return await call()
        if fault.took_effect:
            with suppress(ApiError):
                await call()
        raise fault.error

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        found = await self._ask("get", resource.kind, lambda: self._cluster.get(resource, namespace, name))
        if found is not None and resource is FINETUNEJOBS:
            self.read[name] = found, self._cluster.told.copy()
        return found

    async def find(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        return await self._ask(
            "find", resource.kind, lambda: self._cluster.find(resource, namespace, labels=labels, fields=fields)
        )

    async def list_all(
        self, resource: Resource, namespace: str | None, read: Callable[[Object], T], *, labels: str = ""
    ) -> Listing[T]:
        return await self._ask(
            "list_all", resource.kind, lambda: self._cluster.list_all(resource, namespace, read, labels=labels)
        )

    async def create(self, item: Object) -> Object:
        return await self._ask("create", item["kind"], lambda: self._cluster.create_for(self, item))

    async def delete(self, resource: Resource, namespace: str, name: str, *, foreground: bool = False) -> None:
        await self._ask(
            "delete", resource.kind, lambda: self._cluster.delete(resource, namespace, name, foreground=foreground)
        )

    async def replace(self, item: Object) -> Object:
        return await self._ask("replace", item["kind"], lambda: self._cluster.replace(item))

    async def replace_status(self, item: Object) -> Object:
        return await self._ask("replace_status", item["kind"], lambda: self._cluster.replace_status(item))

    async def set_finalizers(self, item: Object, finalizers: list[str]) -> Object:
        return await self._ask("finalizers", item["kind"], lambda: self._cluster.set_finalizers(item, finalizers))

    async def pod_log(self, namespace: str, pod: str, *, lines: int) -> str:
        return await self._ask("pod_log", "Pod", lambda: self._cluster.pod_log(namespace, pod, lines=lines))
