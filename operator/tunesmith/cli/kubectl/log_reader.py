"""Logs of pods that are gone: a short-lived pod prints them from the volume, and is removed in every case."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, BinaryIO

from pydantic import ValidationError

from tunesmith.api.pods import Storage
from tunesmith.cli.kubectl.errors import SaidError, is_passing
from tunesmith.cli.kubectl.pod_log import OURS, has_ended, has_started, lines, why_ended
from tunesmith.core.manifests import LOGS_PROGRAM, log_reader_pod
from tunesmith.core.observe import Waiting, waiting_of_pod
from tunesmith.kube.client import KubeCluster
from tunesmith.kube.cluster import EVENTS, PODS, ApiError, Object

_POLL = 0.3
_POLLS_BEFORE_EVENTS = 10
_MOST_SECONDS_TO_START = 600
_MOST_SECONDS_TO_END = 30
_HELD_LINES = 4
"""A reader that finds nothing says so in fewer lines."""
_RIGHTS = (
    "The logs of pods that are gone are printed by a short-lived pod, which mounts the volume read-only. "
    "It needs: create, get and delete on pods, and get on pods/log."
)


def reader_pod(item: Object, arguments: Sequence[str], suffix: str, program: str = LOGS_PROGRAM) -> Object:
    """Return the pod that prints logs of a FineTuneJob, or the report on it.

    Args:
        item: the FineTuneJob.
        arguments: of the program.
        suffix: ends the pod's name.
        program: the module that prints.

    Raises:
        SaidError: the status does not tell where the logs are, or by which image they are read.
    """
    status = item.get("status") or {}
    if not status.get("image") or not status.get("storage"):
        raise SaidError(
            f"It is not known on which volume the logs of FineTuneJob {item['metadata']['name']} are.", _why(status)
        )
    return log_reader_pod(
        item,
        suffix,
        image=status["image"],
        storage=_storage(status["storage"]),
        pull_secrets=status.get("imagePullSecrets") or (),
        program=program,
        arguments=arguments,
    )


def _why(status: Mapping[str, Any]) -> str:
    """Return why the operator has not written down where the logs are."""
    ready: Mapping[str, Any] = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
    if not ready:
        return "The operator writes that down when it looks at the job: does it run?"
    return f"The operator has started nothing for it: {ready['reason']}: {ready['message']}"


def _storage(said: Mapping[str, Any]) -> Storage:
    """Return the volume that a status names; what a newer operator may say besides is passed over."""
    known = {field.alias for field in Storage.model_fields.values()}
    try:
        return Storage.model_validate({name: value for name, value in said.items() if name in known})
    except ValidationError as error:
        raise SaidError(
            f"`status.storage` of the FineTuneJob makes no sense: {error.errors()[0]['msg']}.",
            "The operator writes it anew when the job changes.",
        ) from None


async def read_from_volume(
    cluster: KubeCluster,
    item: Object,
    arguments: Sequence[str],
    to: BinaryIO,
    tell: Callable[[str], None],
    program: str = LOGS_PROGRAM,
) -> None:
    """Print logs of a FineTuneJob, or the report on it, from the volume.

    Args:
        cluster: the cluster.
        item: the FineTuneJob.
        arguments: of the program.
        to: where what it prints goes.
        tell: is told what is waited for.
        program: the module that prints.

    Raises:
        SaidError: there is no such log, or no pod can read it.
        ApiError: the API server refuses, or does not answer.
    """
    pod = reader_pod(item, arguments, secrets.token_hex(4), program)
    async with _running(cluster, pod, tell):
        await _wait_until_started(cluster, pod, tell)
        held = await _print(cluster, pod, to)
        failure = await _failure(cluster, pod)
        if failure is not None:
            said, _, hint = b"".join(held).decode("utf-8", "replace").strip().rpartition("\n")
            raise SaidError(said or hint or failure, (said and hint) or "`--list` says which logs there are.")
        to.writelines(held)
        to.flush()


async def _print(cluster: KubeCluster, pod: Object, to: BinaryIO) -> list[bytes]:
    """Print what a reader prints. If that is a few lines only they are returned: they may say why it failed."""
    held: list[bytes] = []
    printed = False
    stream = cluster.stream_log(pod["metadata"]["namespace"], pod["metadata"]["name"], OURS | {"follow": "true"})
    async with aclosing(stream) as pieces:
        async for line in lines(pieces):
            held.append(line)
            if printed or len(held) > _HELD_LINES:
                to.writelines(held)
                held, printed = [], True
    return held


# --- the pod's life --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _running(cluster: KubeCluster, pod: Object, tell: Callable[[str], None]) -> AsyncIterator[None]:
    """Create a pod and remove it at the end, also if nobody waits for the answer to its creation, or none comes."""
    creation = asyncio.create_task(_create(cluster, pod))
    try:
        await asyncio.shield(creation)
        yield
    finally:
        if await _may_be_there(creation):
            await _remove(cluster, pod, tell)


async def _create(cluster: KubeCluster, pod: Object) -> None:
    try:
        await cluster.create(pod)
    except ApiError as error:
        if error.status != 403:
            raise
        rights = f"Ask for those rights. {_RIGHTS}" if "cannot create" in error.message else _RIGHTS
        raise SaidError(f"The pod that reads the logs may not be created: {error.message}.", rights) from None


async def _may_be_there(creation: asyncio.Task[None]) -> bool:
    """Tell whether a creation went well, or ended without an answer that says no."""
    try:
        await creation
    except SaidError:
        return False
    except ApiError as error:
        return is_passing(error)
    return True


async def _remove(cluster: KubeCluster, pod: Object, tell: Callable[[str], None]) -> None:
    meta = pod["metadata"]
    try:
        await cluster.delete(PODS, meta["namespace"], meta["name"])
    except ApiError as error:
        why = error.message or error.reason
        tell(f"Pod {meta['name']} could not be deleted ({why}). Please delete it, if it is there.")


async def _wait_until_started(cluster: KubeCluster, pod: Object, tell: Callable[[str], None]) -> None:
    """Wait until a pod's program has begun; tell what holds it up."""
    name = pod["metadata"]["name"]
    told: Waiting | None = None
    for poll in range(round(_MOST_SECONDS_TO_START / _POLL)):
        current: Object | None = pod
        try:
            current = await cluster.get(PODS, pod["metadata"]["namespace"], name)
        except ApiError as error:
            if not is_passing(error):
                raise
        if current is None:
            raise SaidError(f"Pod {name} was deleted before it had read the logs.", "Try again.")
        if has_started(current):
            return
        if has_ended(current):
            raise SaidError(
                f"Pod {name}, which was to read the logs, did not start: {why_ended(current)}.", "Try again."
            )
        asks = poll and poll % _POLLS_BEFORE_EVENTS == 0
        waiting = waiting_of_pod(current, await _events_of(cluster, current) if asks else ())
        if waiting is not None and waiting.reason != (told.reason if told else ""):
            told = waiting
            tell(f"Pod {name} waits: {waiting.reason}: {waiting.message}")
        await asyncio.sleep(_POLL)
    last = f"Last seen: {told.reason}: {told.message}" if told else "Nothing says why."
    raise SaidError(f"Pod {name} did not start within {_MOST_SECONDS_TO_START} s.", last)


async def _events_of(cluster: KubeCluster, pod: Object) -> list[Object]:
    """Return the Events about a pod, which alone tell that a volume cannot be mounted; none if nobody lets us."""
    meta = pod["metadata"]
    try:
        return await cluster.find(EVENTS, meta["namespace"], fields=f"involvedObject.uid={meta['uid']}")
    except ApiError:
        return []


async def _failure(cluster: KubeCluster, pod: Object) -> str | None:
    """Return how a pod failed, once it has ended; None if it did not."""
    name = pod["metadata"]["name"]
    for _ in range(round(_MOST_SECONDS_TO_END / _POLL)):
        current = await cluster.get(PODS, pod["metadata"]["namespace"], name)
        if current is None:
            return f"Pod {name} was deleted before it had read the logs."
        if has_ended(current):
            why = why_ended(current)
            return f"Pod {name} failed: {why}." if why else None
        await asyncio.sleep(_POLL)
    return f"Pod {name} does not end."
