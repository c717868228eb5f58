"""Histories made up by Hypothesis: whatever happens, in whatever order, ends well and breaks no rule on its way.

`make test` takes a few hundred that are always the same; ``make faults N=10000`` makes up new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from faults.checked import is_active, is_deleting, is_lookup, stage_of
from faults.unreliable import AFTER, BEFORE, Fault
from faults.world import HELD_UP, NO_PODS, STAGES, Replica, World
from support.fake_cluster import failure
from tunesmith.kube.cluster import Object
from tunesmith_stages.contract import ExitCode

_IN_MAKE_TEST = 300
_HISTORIES = int(os.environ.get("TUNESMITH_FAULT_HISTORIES", _IN_MAKE_TEST))
_PARTS = 8
"""Tests that share the histories, so that several processes can."""
_STEPS = 60

PASSING = (ExitCode.TEMPORARY, ExitCode.UNAVAILABLE)
FOR_GOOD = (ExitCode.BAD_DATA, ExitCode.OUT_OF_MEMORY)

EDITS: Mapping[str, Callable[[Object], object]] = {
    "another learning rate": lambda item: item["spec"]["training"].update(learningRate="3e-3"),
    "the old learning rate": lambda item: item["spec"]["training"].update(learningRate="2e-4"),
    "another quantization": lambda item: item["spec"].update(export={"quantizations": ["Q8_0"]}),
    "the old quantization": lambda item: item["spec"].update(export={"quantizations": ["Q4_K_M"]}),
    "other parameters": lambda item: item["spec"]["ollama"].update(parameters={"temperature": "0.7"}),
    "the old parameters": lambda item: item["spec"]["ollama"].pop("parameters", None),
    "pods that cannot be": lambda item: item["spec"].update(pods=NO_PODS),
    "pods that can be": lambda item: item["spec"].pop("pods", None),
    "suspended": lambda item: item["spec"].update(suspend=True),
    "resumed": lambda item: item["spec"].update(suspend=False),
    "models go with the job": lambda item: item["spec"]["ollama"].update(deletionPolicy="Delete"),
    "models stay": lambda item: item["spec"]["ollama"].update(deletionPolicy="Retain"),
    "Jobs stay for a minute": lambda item: item["spec"].update(ttlSecondsAfterFinished=60),
    "Jobs stay for a week": lambda item: item["spec"].update(ttlSecondsAfterFinished=604_800),
    "another try": lambda item: (
        item["metadata"]
        .setdefault("annotations", {})
        .update({"tunesmith.dev/retry": item["metadata"]["resourceVersion"]})
    ),
    "a label": lambda item: (
        item["metadata"].setdefault("labels", {}).update({"team": item["metadata"]["resourceVersion"]})
    ),
}

_numbers = st.integers(0, 1000)


class Histories(RuleBasedStateMachine):
    """What can happen, one thing at a time."""

    @initialize(stage=st.sampled_from(["", *STAGES]), newest_first=st.booleans())
    def begin(self, stage: str, newest_first: bool) -> None:
        self.world = World(newest_first=newest_first)
        self.world.apply("bot")
        if stage:
            self.world.live_until(stage)

    def pick(self, items: list[Object], number: int) -> Object | None:
        return items[number % len(items)] if items else None

    def replica(self, number: int) -> Replica:
        return self.world.replicas[number % len(self.world.replicas)]

    # --- users

    @rule(number=_numbers, edit=st.sampled_from(sorted(EDITS)))
    def edit(self, number: int, edit: str) -> None:
        if names := self.world.names():
            self.world.edit(names[number % len(names)], EDITS[edit])

    @precondition(lambda self: len(self.world.names()) < 2 and not self.world.cluster.terminating)
    @rule(other_rate=st.booleans())
    def apply(self, other_rate: bool) -> None:
        name = "late" if "bot" in self.world.names() else "bot"
        self.world.apply(name, {"spec.training.learningRate": "1e-3"} if other_rate else {})

    @rule(number=_numbers)
    def delete(self, number: int) -> None:
        if names := self.world.names():
            self.world.delete(names[number % len(names)])

    # --- operators

    @rule(again=st.integers(1, 3))
    def look(self, again: int) -> None:
        for _ in range(again):
            self.world.look(*self.world.names())

    @rule(number=_numbers, again=st.integers(1, 3))
    def look_at_one(self, number: int, again: int) -> None:
        names = self.world.names()
        for _ in range(again if names else 0):
            self.world.look(names[number % len(names)])

    @rule(number=_numbers)
    def hear_everything(self, number: int) -> None:
        self.replica(number).hear_all()

    @rule(number=_numbers, which=_numbers, again=st.booleans())
    def hear(self, number: int, which: int, again: bool) -> None:
        replica = self.replica(number)
        if replica.inbox:
            replica.hear(which % len(replica.inbox), again=again)

    @rule(number=_numbers, which=_numbers)
    def miss(self, number: int, which: int) -> None:
        replica = self.replica(number)
        if replica.inbox:
            replica.miss(which % len(replica.inbox))

    @rule(number=_numbers)
    def resync(self, number: int) -> None:
        self.world.resync(self.replica(number))

    @rule(number=_numbers, error=st.sampled_from(sorted(BEFORE)), after=st.integers(0, 6))
    def call_fails(self, number: int, error: str, after: int) -> None:
        self.replica(number).api.fail(Fault(BEFORE[error](), took_effect=False), after)

    @rule(number=_numbers, error=st.sampled_from(sorted(AFTER)), after=st.integers(0, 6))
    def answer_is_lost(self, number: int, error: str, after: int) -> None:
        self.replica(number).api.fail(Fault(AFTER[error](), took_effect=True), after)

    @rule(number=_numbers, error=st.sampled_from(sorted(BEFORE.keys() - {"killed"})), calls=st.integers(2, 12))
    def api_server_restarts(self, number: int, error: str, calls: int) -> None:
        self.replica(number).api.restart(BEFORE[error], calls)

    @rule()
    def restart(self) -> None:
        self.world.replicas = [Replica(self.world)]

    @precondition(lambda self: len(self.world.replicas) == 1)
    @rule()
    def second_operator(self) -> None:
        self.world.replicas.append(Replica(self.world))

    @rule(number=_numbers, seconds=st.sampled_from([-86_400, -60, 60, 86_400]))
    def clock_jumps(self, number: int, seconds: int) -> None:
        self.replica(number).jump(seconds)

    # --- the cluster

    @rule(seconds=st.sampled_from([1, 15, 60, 400]))
    def time_goes_by(self, seconds: int) -> None:
        self.world.clock.forward(seconds)

    @rule(seconds=st.sampled_from([-86_400, -60, 60, 86_400]))
    def clocks_of_nodes_jump(self, seconds: int) -> None:
        self.world.programs.skew += timedelta(seconds=seconds)

    @rule(number=_numbers)
    def program_starts(self, number: int) -> None:
        job = self.pick(self.world.active(), number)
        if job is not None:
            self.world.start(job)

    @rule(number=_numbers)
    def program_ends(self, number: int) -> None:
        job = self.pick(self.world.active(), number)
        if job is not None:
            self.world.finish(job)

    @rule(number=_numbers, code=st.sampled_from([*PASSING, *FOR_GOOD]))
    def program_fails(self, number: int, code: ExitCode) -> None:
        job = self.pick([job for job in self.world.active() if not is_lookup(job)], number)
        if job is not None:
            reason = f"Failed{code.name.title().replace('_', '')}"
            self.world.programs.failures[stage_of(job)] = [failure(code, reason)]
            self.world.finish(job, reason if code in FOR_GOOD else "")
            self.world.programs.failures.clear()  # nothing has failed if it could not run

    @rule(number=_numbers, why=st.sampled_from(sorted(HELD_UP)))
    def held_up(self, number: int, why: str) -> None:
        job = self.pick(self.world.active(), number)
        if job is not None:
            self.world.held[stage_of(job)] = why
            self.world.start(job)

    @precondition(lambda self: self.world.held)
    @rule(number=_numbers)
    def nothing_holds_it_up(self, number: int) -> None:
        stages = sorted(self.world.held)
        del self.world.held[stages[number % len(stages)]]

    @rule(number=_numbers)
    def evicted(self, number: int) -> None:
        job = self.pick([job for job in self.world.active() if self.world.cluster.pods_of(job)], number)
        if job is not None:
            self.world.programs.evict(job)

    @rule(number=_numbers)
    def report_is_lost(self, number: int) -> None:
        job = self.pick([job for job in self.world.cluster.jobs() if not is_active(job)], number)
        for pod in self.world.cluster.pods_of(job) if job is not None else ():
            self.world.cluster.remove(pod)

    @rule(number=_numbers, foreground=st.booleans())
    def job_is_deleted_by_hand(self, number: int, foreground: bool) -> None:
        self.world.clock.forward(60)  # somebody has seen it, and thought about it
        job = self.pick(self.world.cluster.jobs(), number)
        if job is not None and foreground:
            self.world.delete_slowly(job)
        elif job is not None:
            self.world.remove(job)

    @rule()
    def ended_jobs_expire(self) -> None:
        self.world.expire()

    @rule(number=_numbers)
    def labels_are_stolen(self, number: int) -> None:
        job = self.pick(self.world.cluster.jobs(), number)
        if job is not None:
            self.world.steal_labels(job)

    @rule(number=_numbers)
    def job_is_stolen(self, number: int) -> None:
        job = self.pick(self.world.active(), number)
        if job is not None:
            self.world.steal(job)

    @rule(luck=st.integers(0, 5))
    def namespace_is_deleted(self, luck: int) -> None:
        if not luck:
            self.world.delete_namespace()

    @precondition(lambda self: self.world.cluster.terminating)
    @rule(number=_numbers, again=st.integers(1, 10))
    def namespace_goes_on(self, number: int, again: int) -> None:
        for _ in range(again):
            self.world.namespace_goes_on(number)

    @precondition(lambda self: any(is_deleting(job) for job in self.world.cluster.jobs()))
    @rule()
    def garbage_is_collected(self) -> None:
        self.world.collect_garbage()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.calm_down()
            self.world.check_end()


@pytest.mark.parametrize("part", range(_PARTS))
def test_every_history_ends_well(part: int) -> None:
    """Nothing is made twice at once, done again or left over, no status goes back, and every job comes to its end."""

    class Part(Histories):
        """Its name seeds what is made up."""

    Part.__qualname__ = f"Histories{part}"
    run_state_machine_as_test(
        Part,
        settings=settings(
            max_examples=-(-_HISTORIES // _PARTS),
            stateful_step_count=_STEPS,
            derandomize=_HISTORIES <= _IN_MAKE_TEST,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )
