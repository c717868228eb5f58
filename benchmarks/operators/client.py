"""Who creates objects and sees when each has its first Job: the same for everyone, and by one clock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import aiohttp
from benchmarks.operators.system import JOBS, Object, System

from support.cluster import ApiServer

_CONNECTIONS = 16
_AGAIN_SECONDS = 0.02
_SAMPLE = 20
_PAGE = 500
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class RefusedError(Exception):
    """The API server does not take an object."""


@dataclass
class Times:
    """By object, seconds of one clock."""

    sent: dict[str, float] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    """When the watch told of its (first) Job."""

    def delays(self, since: dict[str, float]) -> list[float]:
        """Return the seconds from `since` until the Job was seen, shortest first."""
        return sorted(max(0.0, self.seen[name] - since[name]) for name in since)

    @property
    def seconds(self) -> float:
        """From the first POST until the last Job was seen."""
        return max(self.seen.values()) - min(self.sent.values())


@dataclass
class Client:
    """Sixteen connections to the API server, and a watch of Jobs."""

    session: aiohttp.ClientSession
    system: System
    times: Times = field(default_factory=Times)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def create(self, name: str) -> None:
        """Create an object and remember when.

        Raises:
            RefusedError: the API server refuses.
        """
        body = json.dumps(self.system.make(name)).encode()
        self.times.sent.setdefault(name, time.monotonic())
        headers = {"Content-Type": "application/json"}
        async with self.session.post(self.system.collection, data=body, headers=headers) as answer:
            said = await answer.read()
            self.times.answered[name] = time.monotonic()
            if answer.status != 201:
                raise RefusedError(f"{name} was refused: {said.decode()}")

    async def insist(self, name: str) -> None:
        """Create an object, as often as it takes: while an operator starts, its webhooks let nothing through."""
        async with asyncio.timeout(patience(1)):
            while True:
                try:
                    return await self.create(name)
                except RefusedError:
                    await asyncio.sleep(_AGAIN_SECONDS)

    async def watch(self) -> None:
        """Remember when each object's first Job was seen, for ever."""
        headers = {"Accept": _METADATA_ONLY}
        async with self.session.get(JOBS, params={"watch": "true"}, headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                now = time.monotonic()
                if line.startswith(b'{"type":"ADDED"'):
                    meta = json.loads(line)["object"]["metadata"]
                    self.times.seen.setdefault(meta["labels"][self.system.label], now)
                    self.news.set()

    async def see(self, count: int) -> None:
        """Wait until the Jobs of so many objects were seen."""
        async with asyncio.timeout(patience(count)):
            while len(self.times.seen) < count:
                self.news.clear()
                await self.news.wait()

    async def are_told(self, names: Sequence[str]) -> None:
        """Wait until the status of each of these objects says that its Pod runs.

        Some are asked for first, one by one: lists of all of them would keep the API server from its work.
        """
        async with asyncio.timeout(patience(len(names))):
            for name in names[::_SAMPLE]:
                while not self.system.tells(await self._get(f"{self.system.collection}/{name}")):  # noqa: ASYNC110
                    await asyncio.sleep(0.5)
            while not all(map(self.system.tells, await self._all())):  # noqa: ASYNC110
                await asyncio.sleep(1)

    async def _all(self) -> list[Object]:
        items: list[Object] = []
        following = ""
        while True:
            page = await self._get(f"{self.system.collection}?limit={_PAGE}&continue={following}")
            items += page["items"]
            following = page["metadata"].get("continue", "")
            if not following:
                return items

    async def _get(self, path: str) -> Object:
        async with self.session.get(path) as answer:
            answer.raise_for_status()
            found: Object = await answer.json()
            return found


def patience(count: int) -> float:
    """Return the seconds after which `count` objects will never be ready."""
    return 180 + count / 4


@contextlib.asynccontextmanager
async def connected(server: ApiServer, system: System) -> AsyncIterator[Client]:
    """Connect to the API server as its administrator, and watch Jobs."""
    authority = server.plane.authority
    context = ssl.create_default_context(cafile=authority.certificate)
    context.load_cert_chain(authority.certificate_of("admin"), authority.key_of("admin"))
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS + 1, ssl=context)
    none = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(server.url, connector=connector, timeout=none, read_bufsize=2**20) as session:
        client = Client(session, system)
        async with asyncio.TaskGroup() as group:  # a watch that fails ends the benchmark
            watch = group.create_task(client.watch())
            yield client
            watch.cancel()


async def at_pace(client: Client, names: Sequence[str], rate: int) -> None:
    """Create `rate` objects a second, whether or not the server keeps up."""
    begun, tasks = time.monotonic(), []
    for number, name in enumerate(names):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(client.create(name)))
    await asyncio.gather(*tasks)


async def at_once(client: Client, names: Sequence[str]) -> None:
    """Create all objects as fast as sixteen connections can."""
    left = iter(names)

    async def create() -> None:
        for name in left:
            await client.create(name)

    await asyncio.gather(*(create() for _ in range(_CONNECTIONS)))
