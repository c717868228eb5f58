"""One measurement: a new cluster, one system, so many objects at ten a second or all at once."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.operators.client import Client, Times, at_once, at_pace, connected
from benchmarks.operators.clusters import new_cluster
from benchmarks.operators.system import Processes, System, cpu
from daemons import Daemon

from support.cluster import ApiServer

RATE = 10
RESTARTS = 3
_FIRST = "first"


@dataclass(frozen=True)
class Spread:
    """Of many seconds."""

    p50: float
    p99: float
    worst: float


@dataclass
class Run:
    """What was measured on one cluster."""

    load: float
    """Of the machine, the minute before."""
    seconds: float
    """From the first POST until the last Job was seen."""
    sent: Spread
    """From when an object was sent until its Job was seen."""
    answered: Spread
    """The same from the answer of the API server."""
    cluster_cpu: float
    """CPU seconds of API server, etcd, controllers, scheduler and kwok until the last Job was there."""
    cpu: float
    """CPU seconds of the operator until then."""
    told_seconds: float = 0.0
    """From the first POST until all statuses said that the Pods run."""
    told_cpu: float = 0.0
    """CPU seconds of the operator until then."""
    memory: float = 0.0
    """MB resident when all are there."""
    idle: float = 0.0
    """Cores that the operator uses when nothing changes any more."""
    restarts: list[float] = field(default_factory=list)
    """Seconds from each kill until an object that is created just then has its Job."""
    unelected: list[float] = field(default_factory=list)
    """The same without leader election, where that can be left out."""


def measure(system: System, count: int, *, burst: bool) -> Run:
    """Create `count` objects on a new cluster; after a burst, look at what the operator costs, and kill it."""
    with tempfile.TemporaryDirectory(prefix="operators-") as scratch, new_cluster(Path(scratch)) as server:
        processes = system.install(server, Path(scratch))
        try:
            return asyncio.run(_measure(server, system, processes, count, burst=burst))
        finally:
            processes.kill()


async def _measure(server: ApiServer, system: System, processes: Processes, count: int, *, burst: bool) -> Run:
    names = [f"bench-{number:04}" for number in range(count)]
    async with connected(server, system) as client:
        await _wait_until_it_works(client)
        load, cluster_before, before = os.getloadavg()[0], cpu(server.daemons), processes.cpu()
        await (at_once(client, names) if burst else at_pace(client, names, RATE))
        await client.see(count)
        times = client.times
        run = Run(
            load,
            times.seconds,
            _spread(times.delays(times.sent)),
            _spread(times.delays(times.answered)),
            cpu(server.daemons) - cluster_before,
            processes.cpu() - before,
        )
        if burst and processes.shipped:
            await client.are_told(names)
            run.told_seconds = time.monotonic() - min(times.sent.values())
            run.told_cpu = processes.cpu() - before
            run.idle = await _idle_cores(processes)
            run.memory = processes.memory()
            run.restarts = await _restarts(processes, processes.shipped, client, "shipped")
            if processes.unelected:
                run.unelected = await _restarts(processes, processes.unelected, client, "unelected")
        return run


async def _wait_until_it_works(client: Client) -> None:
    """Have the first object served; it is not measured."""
    await client.create(_FIRST)
    await client.see(1)
    await client.are_told([_FIRST])
    client.times = Times()


async def _idle_cores(processes: Processes) -> float:
    """Return how many cores the operator uses while nothing happens."""
    await asyncio.sleep(10)
    before, begun = processes.cpu(), time.monotonic()
    await asyncio.sleep(20)
    return (processes.cpu() - before) / (time.monotonic() - begun)


async def _restarts(processes: Processes, programs: Sequence[Daemon], client: Client, name: str) -> list[float]:
    """Kill the operator and start it, again and again; return the seconds until a new object has its Job."""
    taken = []
    for number in range(RESTARTS):
        client.times = Times()
        killed = time.monotonic()
        processes.kill()
        processes.start(programs)
        await client.insist(f"{name}-{number}")
        await client.see(1)
        taken.append(time.monotonic() - killed)
    return taken


def _spread(delays: list[float]) -> Spread:
    return Spread(_percentile(delays, 0.5), _percentile(delays, 0.99), delays[-1])


def _percentile(values: list[float], share: float) -> float:
    """Return the smallest value that `share` of the sorted values do not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))]
