"""How often the logs of programs that run are read."""

from __future__ import annotations

import asyncio
import json

import pytest

from support.fake_cluster import Clock, FakeCluster
from tunesmith.core.observe import ObservedJob, Phase
from tunesmith.kube.items import Key
from tunesmith.running_logs import RunningLogs
from tunesmith_stages.contract import StageName


class Programs:
    """Programs that run, and who reads their logs."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock)
        self.logs = RunningLogs(self.cluster, self.clock.now)
        self.jobs = {
            Key("a", f"bot{number}"): ObservedJob(
                f"bot{number}", StageName.TRAIN, (), 1, lookup=False, phase=Phase.RUNNING, pod=f"pod{number}"
            )
            for number in range(count)
        }

    def look(self, done: int) -> int:
        """Have all programs be so far and look at each; return of how many that was read."""
        line = json.dumps({"stage": "train", "done": done, "total": 1000, "of": "steps"})
        self.cluster.logs = {job.pod: line for job in self.jobs.values()}
        for key, job in self.jobs.items():
            asyncio.run(self.logs.read(key, job))
        return [self.logs.told(key).progress.get("done") for key in self.jobs].count(done)

    def look_in_vain(self) -> float:
        """Look at each while no log can be read; return the seconds after which the last one is tried again."""
        self.cluster.logs = {}
        return [asyncio.run(self.logs.read(key, job)) for key, job in self.jobs.items()][-1]


@pytest.mark.parametrize(("programs", "seconds"), [(1, 10), (200, 10), (400, 20)])
def test_the_more_programs_run_the_less_often_each_is_read(programs: int, seconds: int) -> None:
    """Every ten seconds; of 400 programs each every 20 s: twenty readings a second, however many there are."""
    running = Programs(programs)
    assert running.look(1) == 0
    running.clock.forward(5)
    assert running.look(2) == programs
    running.clock.forward(seconds)  # what was read while the first ones were not all known comes sooner
    assert running.look(3) == programs
    running.clock.forward(seconds - 1)
    assert running.look(4) == 0
    running.clock.forward(1)
    assert running.look(5) == programs


def test_what_cannot_be_read_is_tried_ever_less_often() -> None:
    """After twice the time, and no oftener than what can be read where there are many; after five minutes at most."""
    running = Programs(600)
    running.look(1)
    running.clock.forward(5)
    waits = []
    for _ in range(5):
        waits.append(running.look_in_vain())
        running.clock.forward(waits[-1])
    assert waits == [30, 60, 120, 240, 300]
