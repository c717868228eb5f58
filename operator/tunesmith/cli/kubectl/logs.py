"""`kubectl tunesmith logs`: from the pods while they are there, else from the volume."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from tunesmith.api.status import State
from tunesmith.cli.kubectl.choosing import Choice, choose, newest_try
from tunesmith.cli.kubectl.errors import SaidError, is_passing
from tunesmith.cli.kubectl.finding import find, look_again
from tunesmith.cli.kubectl.log_reader import read_from_volume
from tunesmith.cli.kubectl.pod_log import (
    LogGoneError,
    Source,
    follow_log,
    has_ended,
    has_started,
    pods_of,
    print_log,
)
from tunesmith.core.observe import index_of
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
    is_gone = not pods and choice.attempt != _record(item, choice).get("job")  # a pod that another has replaced
    if _runs(item, choice) and not is_gone:
        if wanted.follow:
            await _Following(cluster, item, choice, wanted.tail, to, tell).until_the_end()
            return
        if not any(map(has_started, pods)):
            raise _nothing_yet(item, choice)
    if not await _print_pods(cluster, choice, pods, wanted.tail, to, tell):
        await _read_kept(cluster, item, choice, wanted.tail, to, tell)


async def _print_pods(
    cluster: KubeCluster,
    choice: Choice,
    pods: list[Object],
    tail: int | None,
    to: BinaryIO,
    tell: Callable[[str], None],
) -> bool:
    """Print what the pods of an attempt wrote, one after the other; tell whether all of it was there to be read."""
    started = [pod for pod in pods if has_started(pod)]
    if not started:
        return False
    if all(map(has_ended, started)):
        tell(f"{_title(choice)}, from its pod" + ("s" if len(started) > 1 else ""))
    together = _work_together(pods)
    try:
        for pod in started:
            if len(started) > 1 and not together:
                to.write(f"==> {pod['metadata']['name']} <==\n".encode())
            await print_log(cluster, _source(pod, together=together), tail, to)
    except LogGoneError:
        return False
    except ApiError as error:
        node_is_away = is_passing(error) and error.status != 0
        if error.status != 404 and not node_is_away:
            raise
        return False
    return True


async def _read_kept(
    cluster: KubeCluster, item: Object, choice: Choice, tail: int | None, to: BinaryIO, tell: Callable[[str], None]
) -> None:
    tell(f"{_title(choice)}, whose pods are gone: from the volume")
    arguments = ["--attempt", choice.attempt, *(["--stage", choice.stage] if choice.stage else [])]
    await read_from_volume(cluster, item, [*arguments, *(["--tail", str(tail)] if tail is not None else [])], to, tell)


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
        self._told = ""
        self._is_over = False

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
        """Follow pods as they come. At the end the group waits for what is still being read."""
        async with asyncio.TaskGroup() as group:
            followed: dict[str, asyncio.Task[None]] = {}
            quiet = 0.0
            while quiet < _QUIET_SECONDS:
                pods = await self._look()
                together = _work_together(pods or ())
                for pod in pods or ():
                    name = pod["metadata"]["name"]
                    if name not in followed and has_started(pod):
                        followed[name] = group.create_task(self._follow(pod, together=together))
                if self._is_over:
                    return
                ended = bool(followed) and all(task.done() for task in followed.values())
                alone = pods is not None and all(map(has_ended, pods))
                quiet = quiet + _POLL if ended and alone else 0.0
                await asyncio.sleep(_POLL)
            self._is_over = True

    async def _follow(self, pod: Object, *, together: bool) -> None:
        source = _source(pod, together=together)
        try:
            await follow_log(self._cluster, source, self._tail, self._to, lambda: self._is_over)
        except LogGoneError:
            self._tell(f"The log of pod {pod['metadata']['name']} is gone; ask again without --follow.")

    async def _look(self) -> list[Object] | None:
        """Return the pods that there are, after a look at whether the attempt is over; None if nobody answers."""
        meta = self._item["metadata"]
        try:
            self._item = await look_again(self._cluster, self._item)
            pods = await pods_of(self._cluster, meta["namespace"], meta["uid"], self._choice.attempt)
        except ApiError as error:
            if not is_passing(error):
                raise
            return None
        self._is_over = not _runs(self._item, self._choice)
        self._say_why(_record(self._item, self._choice))
        return pods

    def _say_why(self, record: Mapping[str, Any]) -> None:
        """Tell what the attempt waits for, or why it failed; once."""
        reason = str(record.get("reason", ""))
        if reason and reason != self._told:
            self._told = reason
            how = "ended" if self._is_over else "waits"
            self._tell(f"{self._choice.stage} {how}: {reason}: {record.get('message', '')}")


def _record(item: Object, choice: Choice) -> Mapping[str, Any]:
    return newest_try(item.get("status") or {}, choice.attempt)


def _runs(item: Object, choice: Choice) -> bool:
    """Tell whether an attempt runs or will run. What came of one that is Unknown is open, but it has ended."""
    return _record(item, choice).get("state") in {State.PENDING, State.RUNNING}


def _work_together(pods: Iterable[Object]) -> bool:
    """Tell whether the pods of an attempt run at once, on several nodes, and not one in place of another."""
    return any(index_of(pod) > 0 for pod in pods)


def _source(pod: Object, *, together: bool) -> Source:
    meta = pod["metadata"]
    return Source(meta["namespace"], meta["name"], f"[{index_of(pod)}] ".encode() if together else b"")


def _title(choice: Choice) -> str:
    return f"{choice.stage or 'attempt'} {choice.attempt}"


def _nothing_yet(item: Object, choice: Choice) -> SaidError:
    record = _record(item, choice)
    why = f": {record['reason']}: {record.get('message', '')}" if record.get("reason") else ""
    return SaidError(
        f"The program of {record['name']} has not started yet{why}.",
        "`--follow` waits for it; `--list` says which logs of earlier attempts there are.",
    )
