"""What the operator asks of a cluster. Everything that it reads or writes there goes through :class:`Cluster`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

Object = dict[str, Any]
"""A Kubernetes object, as JSON holds it."""
T = TypeVar("T")


@dataclass(frozen=True)
class Resource:
    """A kind of object and where the API has it."""

    api_version: str
    kind: str
    plural: str
    part: str = ""
    """What of an object is meant, where the API has that by itself."""

    @property
    def base(self) -> str:
        """Path below which the API has this kind's group and version."""
        return f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"


FINETUNEJOBS = Resource("tunesmith.dev/v1alpha1", "FineTuneJob", "finetunejobs")
JOBS = Resource("batch/v1", "Job", "jobs")
PODS = Resource("v1", "Pod", "pods")
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
SERVICES = Resource("v1", "Service", "services")
EVENTS = Resource("v1", "Event", "events")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
_KUEUE_VERSIONS = ("v1beta2", "v1beta1")  # the newest first; Kueue before 0.15 has the second one only
WORKLOADS = tuple(Resource(f"kueue.x-k8s.io/{version}", "Workload", "workloads") for version in _KUEUE_VERSIONS)
"""What Kueue makes of Jobs: the same in each version of its API."""
PENDING_WORKLOADS = tuple(
    Resource(f"visibility.kueue.x-k8s.io/{version}", "PendingWorkloadsSummary", "localqueues", "pendingworkloads")
    for version in _KUEUE_VERSIONS
)
"""Those that wait in a LocalQueue, in their order."""

BY_KIND: Mapping[str, Resource] = {
    item.kind: item for item in (FINETUNEJOBS, JOBS, PODS, CONFIG_MAPS, SERVICES, EVENTS, LEASES)
}


class ApiError(Exception):
    """The API server refused a request, or could not be asked.

    Attributes:
        status: HTTP status; 0 if there was no answer.
        reason: Kubernetes' word for it, such as ``AlreadyExists``.
        message: Kubernetes' sentence.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def exists(self) -> bool:
        """An object of that name is there already."""
        return self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        """The object was changed since it was read."""
        return self.status == 409 and not self.exists

    @property
    def undecided(self) -> bool:
        """Nobody knows whether the server has done what it was asked for."""
        return self.status == 0 or self.status >= 500

    @property
    def gone(self) -> bool:
        """The object, or the namespace that it should go into, is not there or on its way out."""
        ending = self.status == 403 and "being terminated" in str(self)
        return self.status == 404 or ending


def to_version(text: object) -> int:
    """Return a resource version as a number, 0 if it is none: since Kubernetes 1.35 they may be compared (KEP-5504)."""
    version = str(text)
    return int(version) if version.isdecimal() else 0


class Listing(NamedTuple, Generic[T]):
    """All objects of a kind, as they were at one moment, or what was read of each."""

    items: list[T]
    version: int
    """Resource version of that moment: what is not among `items` and has a lower one is gone."""


class Cluster(Protocol):
    """A Kubernetes cluster. All methods raise :class:`ApiError`."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return an object, or None if it is not there."""

    async def find(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        """Return the objects of one namespace, or of all, that match the selectors."""

    async def list_all(
        self, resource: Resource, namespace: str | None, read: Callable[[Object], T], *, labels: str = ""
    ) -> Listing[T]:
        """Return what is to be `read` of each of them, with the moment of which they tell.

        The objects themselves are never there all at once: each takes many times what is wanted of it.
        """

    async def create(self, item: Object) -> Object:
        """Create an object and return it as the server made it."""

    async def delete(self, resource: Resource, namespace: str, name: str, *, foreground: bool = False) -> None:
        """Delete an object, if it is there. `foreground`: it stays until what it owns is gone."""

    async def replace(self, item: Object) -> Object:
        """Write an object that was read before; refused if it has changed since."""

    async def replace_status(self, item: Object) -> Object:
        """Write the status of an object that was read before; refused if it has changed since."""

    async def set_finalizers(self, item: Object, finalizers: list[str]) -> Object:
        """Write the finalizers of an object that was read before, nothing else; refused if it has changed since."""

    async def pod_log(self, namespace: str, pod: str, *, lines: int) -> str:
        """Return the last lines that a Pod's only container wrote."""
