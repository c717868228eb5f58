"""Logs of pods that are there, as long as they are: printed once, or followed until their programs end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, BinaryIO

from tunesmith.api import keys
from tunesmith.cli.kubectl.errors import is_passing
from tunesmith.core.manifests.child import STAGE_CONTAINER
from tunesmith.core.observe import created, index_of
from tunesmith.kube.client import KubeCluster
from tunesmith.kube.cluster import PODS, ApiError, Object

_LONGEST_LINE = 1 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\S+) ")
OURS = {"container": STAGE_CONTAINER}
"""Names, in a request for a log, the container that is meant."""
_LOST = (b"unable to retrieve container logs for ", b"failed to try resolving symlinks in path ")
"""What a node says, as if it were the log, when it has removed the container already."""


class LogGoneError(Exception):
    """The pod is there, its log is not any more."""


@dataclass(frozen=True)
class Source:
    """A pod's log, and how its lines are told from those of others."""

    namespace: str
    pod: str
    prefix: bytes = b""


async def pods_of(cluster: KubeCluster, namespace: str, uid: str, attempt: str) -> list[Object]:
    """Return the pods of one attempt at a stage of the FineTuneJob `uid`, in the order of nodes and times.

    Args:
        cluster: the cluster.
        namespace: the FineTuneJob's.
        uid: the FineTuneJob's.
        attempt: name of the attempt's Kubernetes Job, or of a pod.
    """
    pods = await cluster.find(PODS, namespace, labels=f"{keys.UID_LABEL}={uid}")
    found = [pod for pod in pods if attempt in {_job_name(pod), pod["metadata"]["name"]}]
    return sorted(found, key=lambda pod: (index_of(pod), created(pod)))


def has_started(pod: Mapping[str, Any]) -> bool:
    """Tell whether the pod's program has begun: then it has a log. One that was evicted before has none."""
    return bool(_state(pod).keys() & {"running", "terminated"})


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Tell whether the pod's program has ended."""
    return "terminated" in _state(pod) or (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def why_ended(pod: Mapping[str, Any]) -> str:
    """Return why a pod that has ended failed, in a word; empty if it did not."""
    status, ended = pod.get("status") or {}, _state(pod).get("terminated") or {}
    if status.get("phase") == "Succeeded" or ended.get("exitCode") == 0:
        return ""
    return str(status.get("reason") or ended.get("reason") or "unknown")


def _state(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of the container of ours: a service mesh may have put others beside it."""
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    ours: Mapping[str, Any] = next((item for item in containers if item.get("name") == STAGE_CONTAINER), {})
    return ours.get("state") or {}


def _job_name(pod: Mapping[str, Any]) -> str:
    return str((pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name", ""))


# --- printing --------------------------------------------------------------------------------------------------------


async def print_log(cluster: KubeCluster, source: Source, tail: int | None, to: BinaryIO) -> None:
    """Print what a pod has written so far.

    Raises:
        LogGoneError: its node has removed it already.
        ApiError: it cannot be read.
    """
    query = OURS | ({} if tail is None else {"tailLines": str(tail)})
    first = True
    async with aclosing(cluster.stream_log(source.namespace, source.pod, query)) as pieces:
        async for line in lines(pieces):
            if first and line.startswith(_LOST):
                raise LogGoneError
            first = False
            to.write(source.prefix + line)
    to.flush()


async def follow_log(
    cluster: KubeCluster, source: Source, tail: int | None, to: BinaryIO, is_over: Callable[[], bool]
) -> None:
    """Print what a pod has written and goes on to write, until it ends; a broken connection is taken up again.

    Args:
        cluster: the cluster.
        source: the pod.
        tail: begin with so many lines of what it has written; None for all.
        to: where the lines go.
        is_over: tells that nothing more is to come: then a node that does not answer is not waited for.

    Raises:
        LogGoneError: its node has removed it already.
        ApiError: it may not be read.
    """
    query = OURS | {"follow": "true", "timestamps": "true"} | ({} if tail is None else {"tailLines": str(tail)})
    position, pause = _Position(), _FIRST_PAUSE
    while True:
        before = position.time
        try:
            await _print_new(cluster, source, query, position, to)
            pod = await cluster.get(PODS, source.namespace, source.pod)
            if pod is None or has_ended(pod):
                return
        except ApiError as error:
            passing = is_passing(error)
            if error.status == 404 or (passing and is_over()):
                return
            if not passing:
                raise
        pause = _FIRST_PAUSE if position.time != before else min(2 * pause, _LONGEST_PAUSE)
        await asyncio.sleep(pause)
        if position.time:
            query.pop("tailLines", None)
            query["sinceTime"] = position.time.decode("ascii")


@dataclass
class _Position:
    """How far a log was read."""

    time: bytes = b""
    """Of the newest line."""


async def _print_new(
    cluster: KubeCluster, source: Source, query: dict[str, str], position: _Position, to: BinaryIO
) -> None:
    """Print what a pod writes as long as one connection lasts, but for what an earlier one has told."""
    told = position.time
    async with aclosing(cluster.stream_log(source.namespace, source.pod, query)) as pieces:
        async for time, line in _timed(lines(pieces)):
            if not position.time and line.startswith(_LOST):
                raise LogGoneError
            if time and time <= told:
                continue
            position.time = time or position.time
            to.write(source.prefix + line)
            to.flush()


async def lines(pieces: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """Yield lines with their ends. One that is very long comes in parts; the last one gets an end."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
        if len(rest) > _LONGEST_LINE:
            yield rest
            rest = b""
    if rest:
        yield rest + b"\n"


async def _timed(timed_lines: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bytes]]:
    """Yield the time that the node put before each line, and the line; no time if there is none."""
    async for line in timed_lines:
        match = _TIME.match(line)
        yield (match[1], line[match.end() :]) if match else (b"", line)
