"""Logs of pods that are gone: a short-lived pod prints them from the volume, and is removed in every case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import BinaryIO

from tunesmith.api.parse import InvalidJobError, parse_object
from tunesmith.api.pods import Storage
from tunesmith.cli.kubectl.errors import SaidError, is_passing
from tunesmith.cli.kubectl.pod_log import has_ended, has_started, lines
from tunesmith.core.manifests import log_reader_pod
from tunesmith.core.observe import waiting_of_pod
from tunesmith.kube.client import KubeCluster
from tunesmith.kube.cluster import PODS, ApiError, Object

_POLL = 0.3
_MOST_SECONDS_TO_START = 600
_HELD_LINES = 4
"""A reader that finds nothing says so in fewer lines."""
_RIGHTS = (
    "The logs of pods that are gone are printed by a short-lived pod, which mounts the volume read-only. "
    "It needs: create, get and delete on pods, and get on pods/log."
)


def reader_pod(item: Object, arguments: Sequence[str]) -> Object:
    """Return the pod that prints logs of a FineTuneJob; `arguments` are those of ``tunesmith_stages.logs``.

    Raises:
        SaidError: the status does not tell where the logs are, or by which image they are read.
    """
    status, meta = item.get("status") or {}, item["metadata"]
    if not status.get("image") or not status.get("storage"):
        raise SaidError(
            f"The status of FineTuneJob {meta['name']} does not say on which volume its logs are.",
            "The operator writes that when it looks at the job: does it run?",
        )
    try:
        job, _ = parse_object({name: item[name] for name in ("apiVersion", "kind", "metadata", "spec")})
    except InvalidJobError as error:
        problems = "; ".join(str(problem) for problem in error.problems)
        raise SaidError(f"The FineTuneJob is not valid: {problems}", "Correct it; its logs are kept.") from None
    storage = Storage.model_validate(status["storage"])
    return log_reader_pod(
        job,
        meta["uid"],
        meta["namespace"],
        image=status["image"],
        storage=storage,
        pull_secrets=status.get("imagePullSecrets") or (),
        arguments=arguments,
    )


async def read_from_volume(
    cluster: KubeCluster, item: Object, arguments: Sequence[str], to: BinaryIO, tell: Callable[[str], None]
) -> None:
    """Print logs of a FineTuneJob from the volume.

    Args:
        cluster: the cluster.
        item: the FineTuneJob.
        arguments: of ``tunesmith_stages.logs``.
        to: where the logs go.
        tell: is told what is waited for.

    Raises:
        SaidError: there is no such log, or no pod can read it.
        ApiError: the API server refuses, or does not answer.
    """
    async with _running(cluster, reader_pod(item, arguments), tell) as pod:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        await _wait_until_started(cluster, pod, tell)
        held: list[bytes] | None = []
        async with aclosing(cluster.stream_log(namespace, name, {"follow": "true"})) as pieces:
            async for line in lines(pieces):
                if held is not None:
                    held.append(line)
                    if len(held) <= _HELD_LINES:
                        continue
                to.write(b"".join(held) if held else line)
                held = None
        failure = await _failure(cluster, namespace, name)
        if failure is not None:
            said = b"".join(held or ()).decode("utf-8", "replace").strip()
            what, _, hint = (said or failure).rpartition("\n") if "\n" in said else (said or failure, "", "")
            raise SaidError(what, hint or "`--list` says which logs there are.")
        to.write(b"".join(held or ()))
        to.flush()


@asynccontextmanager
async def _running(cluster: KubeCluster, pod: Object, tell: Callable[[str], None]) -> AsyncIterator[Object]:
    """Create a pod and remove it at the end, also if the user does not wait for its creation to be answered."""
    creation = asyncio.create_task(_create(cluster, pod))
    try:
        yield await asyncio.shield(creation)
    finally:
        made: Object | None = None
        with suppress(SaidError, ApiError):
            made = await creation
        if made is not None:
            await _remove(cluster, made, tell)


async def _create(cluster: KubeCluster, pod: Object) -> Object:
    try:
        return await cluster.create(pod)
    except ApiError as error:
        if error.status != 403:
            raise
        rights = f"Ask for those rights. {_RIGHTS}" if "cannot create" in error.message else _RIGHTS
        raise SaidError(f"The pod that reads the logs may not be created: {error.message}.", rights) from None


async def _remove(cluster: KubeCluster, pod: Object, tell: Callable[[str], None]) -> None:
    meta = pod["metadata"]
    try:
        await cluster.delete(PODS, meta["namespace"], meta["name"])
    except ApiError as error:
        tell(f"Pod {meta['name']} could not be deleted ({error.message or error.reason}). Please delete it.")


async def _wait_until_started(cluster: KubeCluster, pod: Object, tell: Callable[[str], None]) -> None:
    """Wait until a pod's program has begun; tell what holds it up."""
    meta, told = pod["metadata"], ""
    loop = asyncio.get_running_loop()
    last = loop.time() + _MOST_SECONDS_TO_START
    while loop.time() < last:
        current: Object | None = pod
        try:
            current = await cluster.get(PODS, meta["namespace"], meta["name"])
        except ApiError as error:
            if not is_passing(error):
                raise
        if current is None:
            raise SaidError(f"Pod {meta['name']} was deleted before it had read the logs.", "Try again.")
        if has_started(current):
            return
        waiting = waiting_of_pod(current)
        if waiting is not None and waiting.reason != told:
            tell(f"Pod {meta['name']} waits: {waiting.reason}: {waiting.message}")
            told = waiting.reason
        await asyncio.sleep(_POLL)
    raise SaidError(
        f"Pod {meta['name']} did not start within {_MOST_SECONDS_TO_START} s.", f"Last seen: {told or '-'}."
    )


async def _failure(cluster: KubeCluster, namespace: str, name: str) -> str | None:
    """Return how a pod failed, once it has ended; None if it did not."""
    for _ in range(round(30 / _POLL)):
        pod = await cluster.get(PODS, namespace, name)
        if pod is None:
            return f"Pod {name} was deleted before it had read the logs."
        if has_ended(pod):
            status = pod.get("status") or {}
            if status.get("phase") == "Succeeded":
                return None
            state = ((status.get("containerStatuses") or [{}])[0].get("state") or {}).get("terminated") or {}
            if state.get("exitCode") == 0:
                return None
            return f"Pod {name} failed: {state.get('reason') or status.get('reason') or 'unknown'}."
        await asyncio.sleep(_POLL)
    return f"Pod {name} does not end."
