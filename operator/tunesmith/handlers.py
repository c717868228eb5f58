"""kopf as the source of events: what happens on the cluster goes into the cache and into the work queue, nothing else.

kopf's handlers never do work themselves, so nothing is lost when one of them fails, and nothing is done twice when an
event comes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from tunesmith.api import keys
from tunesmith.kube.cache import Cache, Key, claims, key_of
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
        _take_finetunejob(cache, queue, event["type"] == "DELETED", event["object"])

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def job_changed(event: Mapping[str, Any], **_: Any) -> None:
        _take_child(cache.put_job, cache.drop_job, queue, event)

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def pod_changed(event: Mapping[str, Any], **_: Any) -> None:
        _take_child(cache.put_pod, cache.drop_pod, queue, event)

    return registry


def _take_finetunejob(cache: Cache, queue: WorkQueue[Key], deleted: bool, item: Mapping[str, Any]) -> None:
    if not deleted:
        if cache.put_finetunejob(item):
            queue.add(key_of(item))
        return
    cache.drop_finetunejob(item)
    queue.add(key_of(item))
    for server, model in claims(item):  # another one may have waited for this model's name
        for other in cache.claimants(server, model):
            queue.add(key_of(other))


def _take_child(
    put: Callable[[Mapping[str, Any]], bool],
    drop: Callable[[Mapping[str, Any]], None],
    queue: WorkQueue[Key],
    event: Mapping[str, Any],
) -> None:
    item = event["object"]
    if event["type"] == "DELETED":
        drop(item)
        queue.add(_parent(item))
    elif put(item):
        queue.add(_parent(item))


def _parent(item: Mapping[str, Any]) -> Key:
    labels = item["metadata"].get("labels") or {}
    return Key(item["metadata"]["namespace"], labels.get(keys.JOB_LABEL, ""))


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
    settings.persistence.finalizer = f"{keys.GROUP}/unused"
