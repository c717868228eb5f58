"""Logs of pods: what is printed, once, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from tunesmith.cli.kubectl.pod_log import (
    LogGoneError,
    Source,
    follow_log,
    has_ended,
    has_started,
    lines,
    print_log,
    why_ended,
)
from tunesmith.core.observe import index_of
from tunesmith.kube.cluster import ApiError
from unit.cli.kubectl.items import container, job_name, pod
from unit.cli.kubectl.played_api import Answer, PlayedApi, serving

ATTEMPT = job_name("train", 1)
RUNS = pod(ATTEMPT, phase="Running", containerStatuses=container(running={}))
ENDED = pod(ATTEMPT, phase="Succeeded", containerStatuses=container(terminated={"exitCode": 0}))
GONE = b"unable to retrieve container logs for containerd://5f"

# --- what a pod's status says ----------------------------------------------------------------------------------------

FAILED = container(terminated={"exitCode": 1, "reason": "Error"})
STATES: dict[str, tuple[dict[str, Any], tuple[bool, bool, str]]] = {
    "not scheduled": ({}, (False, False, "unknown")),
    "being created": (
        {"phase": "Pending", "containerStatuses": container(waiting={"reason": "ContainerCreating"})},
        (False, False, "unknown"),
    ),
    "running": ({"phase": "Running", "containerStatuses": container(running={})}, (True, False, "unknown")),
    "program ended": (
        {"phase": "Running", "containerStatuses": container(terminated={"exitCode": 0})},
        (True, True, ""),
    ),
    "succeeded": ({"phase": "Succeeded", "containerStatuses": container(terminated={"exitCode": 0})}, (True, True, "")),
    "failed": ({"phase": "Failed", "containerStatuses": FAILED}, (True, True, "Error")),
    "killed at its deadline": (
        {"phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": FAILED},
        (True, True, "DeadlineExceeded"),
    ),
    "evicted before it started": ({"phase": "Failed", "reason": "Evicted"}, (False, True, "Evicted")),
    "beside a service mesh's container": (
        {"phase": "Running", "containerStatuses": [{"name": "proxy", "state": {"running": {}}}, *FAILED]},
        (True, True, "Error"),
    ),
    "after a service mesh's container": (
        {"phase": "Pending", "containerStatuses": [{"name": "proxy", "state": {"running": {}}}]},
        (False, False, "unknown"),
    ),
}


@pytest.mark.parametrize(("status", "wanted"), STATES.values(), ids=STATES)
def test_state(status: dict[str, Any], wanted: tuple[bool, bool, str]) -> None:
    """A pod has a log once its program has begun; one that ended without has none."""
    made = pod(ATTEMPT, **status)
    assert (has_started(made), has_ended(made), why_ended(made)) == wanted


INDICES = {"of several": (3, 3), "the first of several": (0, 0), "of a Job without numbers": (None, 0)}


@pytest.mark.parametrize(("given", "wanted"), INDICES.values(), ids=INDICES)
def test_index(given: int | None, wanted: int) -> None:
    """Pods that work together are told apart by the number that Kubernetes gives them."""
    assert index_of(pod(ATTEMPT, index=given)) == wanted


# --- lines -----------------------------------------------------------------------------------------------------------

PIECES: dict[str, tuple[list[bytes], list[bytes]]] = {
    "nothing": ([], []),
    "a line": ([b"a\n"], [b"a\n"]),
    "a line in pieces": ([b"a", b"b", b"c\nd", b"\n"], [b"abc\n", b"d\n"]),
    "several in a piece": ([b"a\nb\n\nc\n"], [b"a\n", b"b\n", b"\n", b"c\n"]),
    "no end": ([b"a\nb"], [b"a\n", b"b\n"]),
    "carriage returns": ([b"1 %\r2 %\r\n"], [b"1 %\r2 %\r\n"]),
    "a letter in pieces": ([b"\xc3", b"\xa4\n"], [b"\xc3\xa4\n"]),
}


@pytest.mark.parametrize(("pieces", "wanted"), PIECES.values(), ids=PIECES)
def test_lines(pieces: list[bytes], wanted: list[bytes]) -> None:
    """Pieces are put together to whole lines; the last one gets an end."""

    async def given() -> AsyncGenerator[bytes]:
        for piece in pieces:
            yield piece

    async def read() -> list[bytes]:
        return [line async for line in lines(given())]

    assert asyncio.run(read()) == wanted


def test_endless_line() -> None:
    """A program that never ends its line does not fill the memory: the line comes in parts."""

    async def read() -> int:
        async def given() -> AsyncGenerator[bytes]:
            for _ in range(64):
                yield b"x" * (1 << 16)

        longest = total = 0
        async for line in lines(given()):
            longest, total = max(longest, len(line)), total + line.count(b"x")
        assert total == 1 << 22
        return longest

    assert asyncio.run(read()) < 1 << 21


# --- once ------------------------------------------------------------------------------------------------------------


def printed(api: PlayedApi, name: str, *, tail: int | None = None, prefix: bytes = b"") -> bytes:
    to = io.BytesIO()

    async def read() -> None:
        async with serving(api) as cluster:
            await print_log(cluster, Source("team-a", name, prefix), tail, to)

    asyncio.run(read())
    return to.getvalue()


def test_print() -> None:
    """What there is goes out as it is, byte for byte, whatever it holds."""
    api = PlayedApi()
    name = api.put(RUNS, Answer(b"one\n\xff\x00\x1b[0m\ntwo\n"))
    assert printed(api, name) == b"one\n\xff\x00\x1b[0m\ntwo\n"
    assert api.queries == [{"container": "stage"}]


def test_print_with_prefix_and_tail() -> None:
    """Each line of a pod that works with others says whose it is; the server cuts the tail."""
    api = PlayedApi()
    name = api.put(RUNS, Answer(b"one\ntwo\n"))
    assert printed(api, name, tail=2, prefix=b"[1] ") == b"[1] one\n[1] two\n"
    assert api.queries == [{"container": "stage", "tailLines": "2"}]


def test_log_that_the_node_has_removed() -> None:
    """What a node says in place of a log is not printed as if it was the log; a program may say the same later on."""
    api = PlayedApi()
    name = api.put(ENDED, Answer(GONE))
    with pytest.raises(LogGoneError):
        printed(api, name)
    name = api.put(ENDED, Answer(b"begins\n" + GONE))
    assert printed(api, name) == b"begins\n" + GONE + b"\n"


# --- followed --------------------------------------------------------------------------------------------------------


def stamped(*numbers: int) -> bytes:
    """Return lines as a node gives them with times, one each second."""
    return b"".join(b"2026-05-04T12:00:%02d.000000001Z line %d\n" % (number, number) for number in numbers)


def plain(*numbers: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in numbers)


def followed(api: PlayedApi, name: str, tail: int | None = None, is_over: Callable[[], bool] = lambda: False) -> bytes:
    to = io.BytesIO()

    async def read() -> None:
        async with serving(api) as cluster:
            await asyncio.wait_for(follow_log(cluster, Source("team-a", name), tail, to, is_over), 20)

    asyncio.run(read())
    return to.getvalue()


FOLLOWED: dict[str, tuple[list[Answer], bytes]] = {
    "to the end": ([Answer(stamped(1, 2, 3))], plain(1, 2, 3)),
    "nothing": ([Answer()], b""),
    "a broken connection": ([Answer(stamped(1, 2), breaks=True), Answer(stamped(2, 3))], plain(1, 2, 3)),
    "broken in a line": ([Answer(stamped(1) + stamped(2)[:35], breaks=True), Answer(stamped(1, 2))], plain(1, 2)),
    "broken before anything came": ([Answer(breaks=True), Answer(stamped(1))], plain(1)),
    "a node that is away": ([Answer(stamped(1), breaks=True), Answer(status=502), Answer(stamped(1, 2))], plain(1, 2)),
    "lines of one moment": ([Answer(stamped(1, 1, 1))], plain(1, 1, 1)),
    "a line without a time": ([Answer(stamped(1) + b"rest of it\n")], plain(1) + b"rest of it\n"),
}


@pytest.mark.parametrize(("answers", "wanted"), FOLLOWED.values(), ids=FOLLOWED)
def test_follow(answers: list[Answer], wanted: bytes) -> None:
    """Every line comes once and in order, also over connections that break."""
    api = PlayedApi()
    name = api.put(ENDED, *answers)
    assert followed(api, name) == wanted
    assert len(api.queries) == len(answers)


def test_follow_goes_on_where_it_was() -> None:
    """A new connection asks for what came after the last line, and not for a tail again."""
    api = PlayedApi()
    name = api.put(ENDED, Answer(stamped(1, 2), breaks=True), Answer(stamped(2, 3)))
    assert followed(api, name, tail=2) == plain(1, 2, 3)
    base = {"container": "stage", "follow": "true", "timestamps": "true"}
    assert api.queries == [{**base, "tailLines": "2"}, {**base, "sinceTime": "2026-05-04T12:00:02.000000001Z"}]


def test_follow_until_the_pod_ends() -> None:
    """A connection that ends while the pod runs is taken up again; a pod that is deleted has nothing more to say."""
    api = PlayedApi()
    name = api.put(RUNS, Answer(stamped(1)), Answer(stamped(1, 2)), Answer(status=404))
    assert followed(api, name) == plain(1, 2)
    assert len(api.queries) == 3


def test_follow_a_lost_node() -> None:
    """A node that does not answer is not waited for when the attempt is over: its pod may stay for long."""
    api = PlayedApi()
    name = api.put(RUNS, Answer(stamped(1), breaks=True), Answer(status=502))
    assert followed(api, name, is_over=lambda: len(api.queries) > 1) == plain(1)


def test_follow_a_log_that_is_gone() -> None:
    """A log that its node has removed cannot be followed."""
    api = PlayedApi()
    name = api.put(ENDED, Answer(GONE))
    with pytest.raises(LogGoneError):
        followed(api, name)


def test_follow_what_one_may_not_read() -> None:
    """A refusal is no passing fault: it is told at once."""
    api = PlayedApi()
    name = api.put(RUNS, Answer(status=403))
    with pytest.raises(ApiError, match="403"):
        followed(api, name)
