"""Finds a FineTuneJob on a cluster, or tells what there is instead."""

from __future__ import annotations

import difflib
from contextlib import suppress

from tunesmith.cli.kubectl.errors import SaidError
from tunesmith.kube.cluster import FINETUNEJOBS, ApiError, Cluster, Object

_MOST_NAMES = 20


async def find(cluster: Cluster, namespace: str, name: str) -> Object:
    """Return a FineTuneJob.

    Raises:
        SaidError: it is not there, or the cluster has none at all.
        ApiError: the API server refuses, or does not answer.
    """
    item = await cluster.get(FINETUNEJOBS, namespace, name)
    if item is None:
        raise await _not_found(cluster, namespace, name)
    return item


async def look_again(cluster: Cluster, item: Object) -> Object:
    """Return a FineTuneJob as it is now.

    Raises:
        SaidError: it was deleted.
        ApiError: the API server refuses, or does not answer.
    """
    meta = item["metadata"]
    return same(await cluster.get(FINETUNEJOBS, meta["namespace"], meta["name"]), item)


def same(seen: Object | None, item: Object) -> Object:
    """Return a FineTuneJob as it was seen; raise SaidError if it is gone, also if another one has taken its name."""
    if seen is None or seen["metadata"]["uid"] != item["metadata"]["uid"]:
        raise SaidError(f"FineTuneJob {item['metadata']['name']} was deleted.", "What it made lies on the volume.")
    return seen


async def _not_found(cluster: Cluster, namespace: str, name: str) -> SaidError:
    what = f"There is no FineTuneJob {name!r} in namespace {namespace}."
    try:
        there = [item["metadata"]["name"] for item in await cluster.find(FINETUNEJOBS, namespace)]
    except ApiError as error:
        if error.status == 404:
            return SaidError(
                "The cluster does not know FineTuneJobs: Tunesmith's CRD is not installed.",
                "Install Tunesmith with its Helm chart, or choose another context.",
            )
        if error.status == 403:
            return SaidError(what, "What there is you may not list: ask for the right to list finetunejobs.")
        raise
    elsewhere = await _namespaces_with(cluster, name)
    if elsewhere:
        return SaidError(what, f"There is one in namespace {elsewhere[0]}: add `-n {elsewhere[0]}`.")
    if not there:
        return SaidError(what, "There are none at all: is it another namespace (`-n`)?")
    return SaidError(what, _suggestion(name, sorted(there)))


async def _namespaces_with(cluster: Cluster, name: str) -> list[str]:
    """Return the namespaces that have a job of that name, as far as the user may look."""
    with suppress(ApiError):
        found = await cluster.find(FINETUNEJOBS, None, fields=f"metadata.name={name}")
        return sorted(item["metadata"]["namespace"] for item in found)
    return []


def _suggestion(name: str, there: list[str]) -> str:
    similar = difflib.get_close_matches(name, there, n=1)
    listed = ", ".join(there[:_MOST_NAMES]) + (
        f" and {len(there) - _MOST_NAMES} more" if len(there) > _MOST_NAMES else ""
    )
    return (f"Did you mean {similar[0]}? " if similar else "") + f"There are: {listed}."
