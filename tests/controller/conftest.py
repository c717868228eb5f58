from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from support.builders import job_data
from support.fake_cluster import Clock, FakeCluster, LogReader, Programs, hear
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.settings import Settings
from tunesmith.api.status import UNSEEN_GENERATION
from tunesmith.core.conditions import Note
from tunesmith.kube.cache import Cache, Key
from tunesmith.kube.cluster import Object
from tunesmith.reconcile import Reconciler

SETTINGS: dict[str, Any] = {
    "stageImage": "registry.example/tunesmith-stages:1",
    "servers": [{"name": "main", "url": "http://ollama:11434"}],
}


class Life:
    """An operator on a cluster in memory. `run` lets both of them go on until nothing changes any more."""

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock)
        self.programs = Programs(self.cluster)
        self.settings = Settings.model_validate({**SETTINGS, **(settings or {})})
        self.notes: list[Note] = []
        self.others_wait = False
        """Whether there are other FineTuneJobs for which nothing has been begun."""
        self.restart()

    def restart(self) -> None:
        """Start the operator anew: it knows nothing but what it reads."""
        self.cache = Cache()
        self.wakes: dict[Key, float | None] = {}
        self.reader = LogReader(self.cluster, self.clock, wake=lambda _key: None)  # all are looked at anyway
        self.reconciler = Reconciler(
            self.cluster,
            self.cache,
            self.settings,
            now=self.clock.now,
            tell=lambda _item, note: self.notes.append(note),
            logs=self.reader.logs,
            others_wait=lambda: self.others_wait,
        )
        self.cluster.listener = self.hear
        for item in list(self.cluster.objects.values()):
            self.hear("ADDED", item)

    def hear(self, kind: str, item: Object) -> None:
        hear(self.cache, kind, item)

    def apply(self, changes: Mapping[str, Any] | None = None, name: str = "bot", namespace: str = "default") -> None:
        """Create a FineTuneJob as the API server holds it: with its defaults."""
        data = job_data({"metadata.name": name, "metadata.namespace": namespace, **(changes or {})})
        whole = FineTuneJob.model_validate(data).model_dump(mode="json", by_alias=True, exclude_none=True)
        meta = {"name": name, "namespace": namespace}
        self.cluster.put_new({**whole, "metadata": meta, "status": {"observedGeneration": UNSEEN_GENERATION}})

    def look(self) -> None:
        """Have the operator look at every FineTuneJob until it has nothing left to do at once."""

        async def until_quiet() -> None:
            for _ in range(60):
                before = len(self.cluster.calls)
                await self.reader.read_due()
                for key in list(self.cache.finetunejobs):
                    self.wakes[key] = await self.reconciler.reconcile(key)
                idle = all(call[0] == "get" for call in self.cluster.calls[before:])
                if idle and all(wake != 0 for wake in self.wakes.values()):
                    return
            raise AssertionError("the operator never comes to rest")

        asyncio.run(until_quiet())

    def unfinished(self, stage: str = "") -> list[Object]:
        return [
            job
            for job in self.cluster.jobs(stage)
            if not (job.get("status") or {}).get("conditions") and not job["metadata"].get("deletionTimestamp")
        ]

    def run(self, until: str = "") -> None:
        """Let operator and programs go on until nothing is left, or until a Job of the stage `until` was created."""
        for _ in range(60):
            self.look()
            jobs = self.unfinished()
            if not jobs or (until and self.unfinished(until)):
                return
            self.programs.finish(jobs[0])
        raise AssertionError("the job never ends")

    def wait(self, seconds: float) -> None:
        self.clock.forward(seconds)
        self.look()

    def condition(self, kind: str = "Ready", name: str = "bot") -> dict[str, Any]:
        return next(item for item in self.cluster.status(name)["conditions"] if item["type"] == kind)

    def ready(self, name: str = "bot") -> tuple[str, str]:
        """Return status and reason of the condition Ready."""
        item = self.condition("Ready", name)
        return item["status"], item["reason"]

    def stage(self, stage: str, name: str = "bot") -> dict[str, Any]:
        return next(dict(item) for item in self.cluster.status(name)["stages"] if item["name"] == stage)


@pytest.fixture
def life() -> Life:
    return Life()
