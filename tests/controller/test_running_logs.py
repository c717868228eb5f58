"""How often the logs of programs that run are read."""

from __future__ import annotations

import asyncio
import json

import pytest

from support.fake_cluster import Clock, FakeCluster, LogReader
from tunesmith.kube.items import Key
from tunesmith.queue import WorkQueue
from tunesmith.running_logs import LOG_READERS, LOGS_PER_SECOND, RunningLogs, read_in_turn


class Programs:
    """Programs that run, and who reads their logs."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock)
        self.woken: list[Key] = []
        self.reader = LogReader(self.cluster, self.clock, wake=self.woken.append)
        self.pods = {Key("a", f"bot{number}"): f"pod{number}" for number in range(count)}
        for key, pod in self.pods.items():
            self.reader.logs.follow(key, pod)

    def wait(self, seconds: float, done: int) -> int:
        """Have all programs be so far after some seconds; return of how many that was read."""
        self.clock.forward(seconds)
        line = json.dumps({"stage": "train", "done": done, "total": 1000, "of": "steps"})
        self.cluster.logs = dict.fromkeys(self.pods.values(), line)
        asyncio.run(self.reader.read_due())
        return [self.reader.logs.told(key).progress.get("done") for key in self.pods].count(done)


@pytest.mark.parametrize(("programs", "seconds"), [(1, 10), (200, 10), (400, 20)])
def test_the_more_programs_run_the_less_often_each_is_read(programs: int, seconds: int) -> None:
    """Every ten seconds; of 400 programs each every 20 s: twenty readings a second, however many there are."""
    running = Programs(programs)
    assert running.wait(0, done=1) == 0
    assert running.wait(5, done=2) == programs
    assert running.wait(seconds - 1, done=3) == 0
    assert running.wait(1, done=4) == programs
    assert running.wait(seconds - 1, done=5) == 0
    assert running.wait(1, done=6) == programs


def test_a_finetunejob_is_looked_at_if_its_program_has_told_something_new() -> None:
    """Not if it said the same again, nor if it cannot be read."""
    running = Programs(2)
    running.wait(5, done=1)
    assert running.woken == [*running.pods]
    running.wait(10, done=1)
    assert len(running.woken) == 2
    del running.pods[Key("a", "bot1")]
    running.wait(10, done=2)
    assert running.woken[2:] == [Key("a", "bot0")]


def test_what_cannot_be_read_is_tried_ever_less_often() -> None:
    """After twice the time, and no oftener than what can be read where there are many; after five minutes at most."""
    waits: list[float] = []
    cluster = FakeCluster(Clock())
    logs = RunningLogs(cluster, read_after=lambda _key, seconds: waits.append(seconds), wake=lambda _key: None)
    for number in range(600):
        logs.follow(Key("a", f"bot{number}"), f"pod{number}")
    waits.clear()
    for _ in range(5):
        asyncio.run(logs.read(Key("a", "bot0")))
    assert waits == [30, 60, 120, 240, 300]
    cluster.logs = {"pod0": "here again"}
    asyncio.run(logs.read(Key("a", "bot0")))
    assert waits[5:] == [30]


def test_what_is_read_of_a_pod_is_not_told_of_the_next_one() -> None:
    """A reading that was under way when another Pod was followed, or none any more, comes to nothing."""
    clock, asked, let = Clock(), asyncio.Event(), asyncio.Event()

    class Slow(FakeCluster):
        async def pod_log(self, namespace: str, pod: str, *, lines: int) -> str:
            asked.set()
            await let.wait()
            return await super().pod_log(namespace, pod, lines=lines)

    cluster = Slow(clock, logs={"old": '{"stage": "train", "done": 9, "total": 10}'})
    woken: list[Key] = []
    reader = LogReader(cluster, clock, wake=woken.append)
    key = Key("a", "bot")

    async def race() -> None:
        reader.logs.follow(key, "old")
        reading = asyncio.create_task(reader.logs.read(key))
        await asked.wait()
        reader.logs.follow(key, "new")
        let.set()
        await reading

    asyncio.run(race())
    assert not woken
    assert not reader.logs.told(key).progress
    reader.logs.forget(key)
    clock.forward(100)
    asked.clear()
    asyncio.run(reader.read_due())
    assert not asked.is_set()


def test_what_is_due_at_once_is_read_in_turn() -> None:
    """After a burst thousands of logs are due: so many are read in a second as at any time, and the rest wait."""
    running = Programs(200)

    async def read_for(seconds: float) -> int:
        queue: WorkQueue[Key] = WorkQueue()
        for key in running.pods:
            queue.add(key)
        readers = [read_in_turn(queue, running.reader.logs, _at_once) for _ in range(LOG_READERS)]
        tasks = [asyncio.create_task(reader) for reader in readers]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(running.pods) - len(queue)

    running.cluster.logs = dict.fromkeys(running.pods.values(), "")
    begun = asyncio.run(read_for(0.5))
    assert LOG_READERS <= begun <= LOG_READERS + 0.5 * LOGS_PER_SECOND


async def _at_once() -> None:
    pass
