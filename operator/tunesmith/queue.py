"""The work queue: each key waits in it at most once, one worker has it at a time, and failures come back later."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 60.0
_PATIENCE = 30.0
"""Seconds that a key may be overtaken by urgent ones; then it waits for a few of them only."""
_URGENT_IN_A_ROW = 3
"""So many urgent keys are handed out for each other one that has waited for so long."""
_URGENT, _OTHER = 0, 1


class WorkQueue(Generic[K]):
    """Keys that need to be looked at.

    A key that is added while it waits stays where it is; one that is added while a worker has it is handed out again
    afterwards. So each key is worked on in order, and never twice at once. Keys that are urgent when they are added go
    before all others: under load the others wait, but not for ever, and what happens to them meanwhile is looked at
    once.
    """

    def __init__(
        self, clock: Callable[[], float] | None = None, is_urgent: Callable[[K], bool] = lambda _key: False
    ) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._is_urgent = is_urgent
        self._lanes: tuple[deque[tuple[float, K]], ...] = (deque(), deque())  # urgent ones, others: since when
        self._waiting: dict[K, int] = {}  # with its lane; one that became urgent is in the other lane still
        self._urgent = 0
        self._in_a_row = 0  # urgent ones that went before others that have waited for long
        self._there = asyncio.Event()
        self._calm = asyncio.Event()
        self._calm.set()
        self._active: set[K] = set()
        self._again: set[K] = set()
        self._due: dict[K, float] = {}
        self._later: list[tuple[float, int, K]] = []
        self._count = itertools.count()
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K) -> None:
        """Have `key` looked at as soon as a worker is free."""
        if key in self._active:
            self._again.add(key)
            return
        lane = _URGENT if self._is_urgent(key) else _OTHER
        if lane < self._waiting.get(key, _OTHER + 1):
            self._waiting[key] = lane
            self._lanes[lane].append((self._clock(), key))
            self._urgent += lane == _URGENT
            self._there.set()
            if self._urgent:
                self._calm.clear()

    def has_urgent(self) -> bool:
        """Tell whether urgent keys wait."""
        return self._urgent > 0

    async def until_calm(self, seconds: float) -> None:
        """Return when no urgent key waits, in `seconds` at the latest."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._calm.wait(), seconds)

    def add_after(self, key: K, seconds: float) -> None:
        """Have `key` looked at in `seconds` at the latest."""
        due = self._clock() + seconds
        if self._due.get(key, due) < due:
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, next(self._count), key))
        self._changed.set()

    def forget(self, key: K) -> None:
        """Drop what was planned for a key that is gone."""
        self._due.pop(key, None)
        self._failures.pop(key, None)

    async def get(self) -> K:
        """Return the next key; it is this worker's until :meth:`done`."""
        while not self._waiting:
            self._there.clear()
            await self._there.wait()
        lane = self._next_lane()
        _, key = self._lanes[lane].popleft()
        del self._waiting[key]
        self._urgent -= lane == _URGENT
        if not self._urgent:
            self._calm.set()
        self._active.add(key)
        return key

    def _next_lane(self) -> int:
        others = self._lanes[_OTHER]
        while others and self._waiting.get(others[0][1]) != _OTHER:
            others.popleft()
        if not (others and self._urgent):
            return _URGENT if self._urgent else _OTHER
        overdue = others[0][0] < self._clock() - _PATIENCE
        self._in_a_row = self._in_a_row + 1 if overdue and self._in_a_row < _URGENT_IN_A_ROW else 0
        return _URGENT if self._in_a_row or not overdue else _OTHER

    def done(self, key: K, *, failed: bool = False) -> float:
        """Give a key back; return the seconds until it comes again if it `failed`, else 0."""
        self._active.discard(key)
        delay = 0.0
        if failed:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(_FIRST_BACKOFF * 2.0 ** min(count - 1, 16), _LONGEST_BACKOFF) * random.uniform(0.8, 1.2)  # noqa: S311
            self.add_after(key, delay)
        else:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            if not failed:
                self.add(key)
        return delay

    async def run_timers(self) -> None:
        """Move keys whose time has come to the workers, for ever."""
        while True:
            self._changed.clear()
            now = self._clock()
            while self._later and self._later[0][0] <= now:
                due, _, key = heapq.heappop(self._later)
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add(key)
            wait = self._later[0][0] - now if self._later else None
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue
