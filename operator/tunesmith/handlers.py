"""kopf as the source of events: what happens on the cluster goes into the cache and into the work queue, nothing else.

kopf's handlers never do work themselves, so nothing is lost when one of them fails, and nothing is done twice when an
event comes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from tunesmith.api import keys
from tunesmith.kube.cache import Cache, Key
from tunesmith.queue import WorkQueue


def make_registry(cache: Cache, queue: WorkQueue[Key]) -> kopf.OperatorRegistry:
    """Return kopf's registry with the handlers that fill `cache` and `queue`."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        _configure(settings)

    @kopf.on.login(registry=registry)
    async def log_in(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(keys.GROUP, keys.VERSION, keys.PLURAL, registry=registry)
    async def finetunejob_changed(event: Mapping[str, Any], **_: Any) -> None:
        _take(cache.put_finetunejob, cache.drop_finetunejob, queue, event)

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def job_changed(event: Mapping[str, Any], **_: Any) -> None:
        _take(cache.put_job, cache.drop_job, queue, event)

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def pod_changed(event: Mapping[str, Any], **_: Any) -> None:
        _take(cache.put_pod, cache.drop_pod, queue, event)

    return registry


def _take(
    put: Callable[[Mapping[str, Any]], Key | None],
    drop: Callable[[Mapping[str, Any]], Key | None],
    queue: WorkQueue[Key],
    event: Mapping[str, Any],
) -> None:
    """Have the cache know what happened, and the FineTuneJob looked at that it happened to."""
    key = (drop if event["type"] == "DELETED" else put)(event["object"])
    if key is not None:
        queue.add(key)


class _NoEssence(kopf.DiffBaseStorage):
    """Keeps kopf from comparing objects with what they were: it copies each of them twice for that, for every event.

    That is for handlers of changes; ours are told of events.
    """

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:  # noqa: ARG002 - kopf's
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is written to the objects."""


class _NoProgress(kopf.ProgressStorage):
    """Keeps kopf from looking for marks of its handlers in each object: ours leave none."""

    def fetch(self, *, key: str, body: kopf.Body) -> None:
        """There is none."""

    def store(self, *, key: str, record: object, body: kopf.Body, patch: kopf.Patch) -> None:
        """Nothing is written to the objects."""

    def purge(self, *, key: str, body: kopf.Body, patch: kopf.Patch) -> None:
        """There is nothing."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Nothing is written to the objects."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def _configure(settings: kopf.OperatorSettings) -> None:
    ours = keys.UID_LABEL  # server-side: other Jobs and Pods never reach this process
    settings.watching.label_selectors["batch", "jobs"] = ours
    settings.watching.label_selectors["", "pods"] = ours
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.queueing.idle_timeout = 1.0
    settings.persistence.diffbase_storage = _NoEssence()
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.finalizer = f"{keys.GROUP}/unused"
