"""The work queue: no key twice at once, none lost, and failures later and later."""

from __future__ import annotations

import asyncio

import pytest

from tunesmith.queue import WorkQueue


def test_a_key_waits_once_however_often_it_is_added() -> None:
    """Many events about one job cost one look at it."""

    async def run() -> int:
        queue: WorkQueue[str] = WorkQueue()
        for _ in range(5):
            queue.add("a")
        await queue.get()
        return len(queue)

    assert asyncio.run(run()) == 0


def test_a_key_that_is_added_while_it_is_worked_on_comes_again_afterwards() -> None:
    """What happens meanwhile is not lost, and two workers never have the same job."""

    async def run() -> tuple[int, str]:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        key = await queue.get()
        queue.add("a")
        meanwhile = len(queue)
        queue.done(key)
        return meanwhile, await asyncio.wait_for(queue.get(), 1)

    assert asyncio.run(run()) == (0, "a")


def test_failures_come_back_later_and_later() -> None:
    """The waits double, with a fifth of chance; a success begins anew."""

    async def run() -> list[float]:
        queue: WorkQueue[str] = WorkQueue()
        waits = []
        for failed in (True, True, True, False, True):
            queue.add("a")
            waits.append(queue.done(await queue.get(), failed=failed))
        return waits

    first, second, third, none, again = asyncio.run(run())
    for wait, expected in ((first, 0.1), (second, 0.2), (third, 0.4)):
        assert 0.8 * expected <= wait <= 1.2 * expected
    assert none == 0
    assert 0.08 <= again <= 0.12


def test_the_soonest_of_several_times_counts() -> None:
    """A key that is to come in a minute and in a moment comes in a moment, once."""

    async def run() -> tuple[str, int]:
        queue: WorkQueue[str] = WorkQueue()
        timers = asyncio.create_task(queue.run_timers())
        queue.add_after("a", 60)
        queue.add_after("a", 0.02)
        queue.add_after("a", 30)
        key = await asyncio.wait_for(queue.get(), 5)
        queue.done(key)
        await asyncio.sleep(0.05)
        timers.cancel()
        return key, len(queue)

    assert asyncio.run(run()) == ("a", 0)


def test_urgent_keys_go_first() -> None:
    """A job that nobody has seen yet does not wait behind a thousand that only changed; each comes once."""

    async def run() -> list[str]:
        urgent = {"new"}
        queue: WorkQueue[str] = WorkQueue(is_urgent=urgent.__contains__)
        for key in ("old", "older", "new", "old"):
            queue.add(key)
        urgent.add("older")
        queue.add("older")
        taken = [await queue.get() for _ in range(3)]
        assert len(queue) == 0
        queue.done("older")
        queue.add("last")
        return [*taken, await asyncio.wait_for(queue.get(), 1)]

    assert asyncio.run(run()) == ["new", "older", "old", "last"]


def test_a_key_is_not_overtaken_for_ever() -> None:
    """Who has waited for half a minute lets three urgent ones go first: a stream of them cannot starve the others."""
    now = 0.0

    async def run() -> list[str]:
        nonlocal now
        queue: WorkQueue[str] = WorkQueue(clock=lambda: now, is_urgent=lambda key: key.startswith("new"))
        for key in ("old 1", "old 2", "old 3", *(f"new {number}" for number in range(1, 9))):
            queue.add(key)
        taken = [await queue.get()]
        now = 31.0
        queue.add("old 4")
        return taken + [await queue.get() for _ in range(11)]

    first, second = ["new 2", "new 3", "new 4", "old 1"], ["new 5", "new 6", "new 7", "old 2"]
    assert asyncio.run(run()) == ["new 1", *first, *second, "new 8", "old 3", "old 4"]


@pytest.mark.parametrize("urgent_goes", [False, True])
def test_what_can_wait_lets_urgent_keys_go_first_but_not_for_ever(urgent_goes: bool) -> None:
    """It goes on as soon as a worker has the last urgent key, and at the latest when its patience ends."""

    async def run() -> tuple[bool, bool]:
        queue: WorkQueue[str] = WorkQueue(is_urgent=lambda key: key == "new")
        queue.add("old")
        await asyncio.wait_for(queue.until_calm(60), 5)
        queue.add("new")
        waiter = asyncio.create_task(queue.until_calm(60 if urgent_goes else 0.05))
        await asyncio.sleep(0)
        waited = not waiter.done()
        if urgent_goes:
            assert await queue.get() == "new"
        await asyncio.wait_for(waiter, 5)
        return waited, queue.has_urgent()

    assert asyncio.run(run()) == (True, not urgent_goes)


def test_it_is_known_whether_urgent_keys_wait() -> None:
    """A key counts from when it is added, or becomes urgent, until a worker has it."""

    async def run() -> list[bool]:
        urgent = {"new"}
        queue: WorkQueue[str] = WorkQueue(is_urgent=urgent.__contains__)
        found = []
        for key in ("old", "new", "older"):
            queue.add(key)
            found.append(queue.has_urgent())
        await queue.get()
        found.append(queue.has_urgent())
        urgent.add("older")
        queue.add("older")
        return [*found, queue.has_urgent()]

    assert asyncio.run(run()) == [False, True, True, False, True]
