"""`kubectl tunesmith logs`: from the pods while they are there, else from the volume."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from tunesmith.cli.kubectl.choosing import Choice, choose
from tunesmith.cli.kubectl.errors import SaidError, is_passing
from tunesmith.cli.kubectl.finding import find
from tunesmith.cli.kubectl.log_reader import read_from_volume
from tunesmith.cli.kubectl.pod_log import (
    LogGoneError,
    Source,
    follow_log,
    has_started,
    index_of,
    pods_of,
    print_log,
)
from tunesmith.core.record import ACTIVE
from tunesmith.kube.client import KubeCluster
from tunesmith.kube.cluster import ApiError, Object

_POLL = 2.0
_QUIET_SECONDS = 10.0
"""When all pods of an attempt have ended for so long, no other one takes their place."""


@dataclass(frozen=True)
class Wanted:
    """What the user asks for."""

    stage: str | None = None
    attempt: str | None = None
    tail: int | None = None
    follow: bool = False
    """Go on until the attempt ends."""
    list: bool = False
    """Say which logs there are."""


async def show_logs(
    cluster: KubeCluster, namespace: str, name: str, wanted: Wanted, to: BinaryIO, tell: Callable[[str], None]
) -> None:
    """Print logs of a FineTuneJob.

    Args:
        cluster: the cluster.
        namespace: the FineTuneJob's.
        name: the FineTuneJob's.
        wanted: which logs, and how.
        to: where the logs go.
        tell: is told what happens meanwhile.

    Raises:
        SaidError: there is no such job or log, or it cannot be read.
        ApiError: the API server refuses, or does not answer.
    """
    item = await find(cluster, namespace, name)
    if wanted.list:
        stage = ["--stage", wanted.stage] if wanted.stage else []
        await read_from_volume(cluster, item, ["--list", *stage], to, tell)
        return
    choice = choose(item.get("status") or {}, wanted.stage, wanted.attempt)
    pods = await pods_of(cluster, namespace, item["metadata"]["uid"], choice.attempt)
    if _is_active(item, choice):
        if wanted.follow:
            await _Following(cluster, item, choice, wanted.tail, to, tell).until_the_end()
            return
        if not any(map(has_started, pods)):
            raise _nothing_yet(item, choice)
    elif pods:
        tell(f"{_title(choice)}, from its pod" + ("s" if len(pods) > 1 else ""))
    try:
        if pods:
            await _print_pods(cluster, item, choice, pods, wanted.tail, to)
            return
    except LogGoneError:
        pass
    except ApiError as error:
        if error.status != 404 and not (is_passing(error) and error.status):
            raise
    await _read_kept(cluster, item, choice, wanted.tail, to, tell)


async def _read_kept(
    cluster: KubeCluster, item: Object, choice: Choice, tail: int | None, to: BinaryIO, tell: Callable[[str], None]
) -> None:
    tell(f"{_title(choice)}, whose pods are gone: from the volume")
    arguments = ["--attempt", choice.attempt, *(["--stage", choice.stage] if choice.stage else [])]
    await read_from_volume(cluster, item, [*arguments, *(["--tail", str(tail)] if tail is not None else [])], to, tell)


async def _print_pods(
    cluster: KubeCluster, item: Object, choice: Choice, pods: list[Object], tail: int | None, to: BinaryIO
) -> None:
    """Print what the pods of an attempt wrote, one after the other."""
    started = [pod for pod in pods if has_started(pod)]
    several = _nodes(item, choice) > 1
    for pod in started:
        if len(started) > 1 and not several:
            to.write(f"==> {pod['metadata']['name']} <==\n".encode())
        await print_log(cluster, _source(pod, several=several), tail, to)


class _Following:
    """Prints what the pods of an attempt write, those that come later too, until the attempt is over."""

    def __init__(
        self,
        cluster: KubeCluster,
        item: Object,
        choice: Choice,
        tail: int | None,
        to: BinaryIO,
        tell: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._item = item
        self._choice = choice
        self._tail = tail
        self._to = to
        self._tell = tell
        self._several = _nodes(item, choice) > 1
        self._told = ""

    async def until_the_end(self) -> None:
        """Follow all pods.

        Raises:
            ApiError: the API server refuses.
            SaidError: the FineTuneJob is gone.
        """
        try:
            await self._follow_all()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _follow_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            followed: dict[str, asyncio.Task[None]] = {}
            quiet = 0.0
            while quiet < _QUIET_SECONDS:
                for pod in await self._pods():
                    name = pod["metadata"]["name"]
                    if name not in followed and has_started(pod):
                        followed[name] = group.create_task(self._follow(pod))
                if not await self._goes_on():
                    return  # the group waits for what is still being read
                ended = bool(followed) and all(task.done() for task in followed.values())
                quiet = quiet + _POLL if ended else 0.0
                await asyncio.sleep(_POLL)

    async def _follow(self, pod: Object) -> None:
        try:
            await follow_log(self._cluster, _source(pod, several=self._several), self._tail, self._to)
        except LogGoneError:
            self._tell(f"The log of pod {pod['metadata']['name']} is gone; ask again without --follow.")

    async def _pods(self) -> list[Object]:
        meta = self._item["metadata"]
        try:
            return await pods_of(self._cluster, meta["namespace"], meta["uid"], self._choice.attempt)
        except ApiError as error:
            if not is_passing(error):
                raise
            return []

    async def _goes_on(self) -> bool:
        """Tell whether the attempt still runs, or will; say what it waits for."""
        meta = self._item["metadata"]
        try:
            self._item = await find(self._cluster, meta["namespace"], meta["name"])
        except ApiError as error:
            if not is_passing(error):
                raise
            return True
        record = _record(self._item, self._choice)
        if record.get("reason") and record["reason"] != self._told:
            self._told = str(record["reason"])
            self._tell(f"{self._choice.stage} waits: {self._told}: {record.get('message', '')}")
        return _is_active(self._item, self._choice)


def _record(item: Object, choice: Choice) -> Object:
    stages = (item.get("status") or {}).get("stages") or ()
    return next((stage for stage in stages if stage.get("job") == choice.attempt), {})


def _is_active(item: Object, choice: Choice) -> bool:
    return _record(item, choice).get("state") in ACTIVE


def _nodes(item: Object, choice: Choice) -> int:
    """Return how many pods work together in an attempt."""
    return int((item["spec"].get("training") or {}).get("nodes", 1)) if choice.stage == "train" else 1


def _source(pod: Object, *, several: bool) -> Source:
    meta = pod["metadata"]
    return Source(meta["namespace"], meta["name"], f"[{index_of(pod)}] ".encode() if several else b"")


def _title(choice: Choice) -> str:
    return f"{choice.stage or 'attempt'} {choice.attempt}"


def _nothing_yet(item: Object, choice: Choice) -> SaidError:
    record = _record(item, choice)
    why = f": {record['reason']}: {record['message']}" if record.get("reason") else ""
    return SaidError(
        f"The program of {record['name']} has not started yet{why}.",
        "`--follow` waits for it; `--attempt` shows an earlier one.",
    )
