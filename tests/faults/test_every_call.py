"""Every call that the operator makes in a job's life fails once, before and after it took effect."""

from __future__ import annotations

from itertools import groupby

import pytest

from faults.checked import is_active, stage_of
from faults.unreliable import AFTER, BEFORE, Fault
from faults.world import STAGES, World
from support.fake_cluster import failure
from tunesmith.kube.cluster import Object
from tunesmith_stages.contract import ExitCode


def one_life(*, smooth: bool = True, fault: Fault | None = None, after: int = 0) -> World:
    """Return a world in which a job went its way; the operator's call of that number failed.

    Args:
        smooth: every program does its work the first time; else its first attempt fails, and the second one does.
        fault: what goes wrong with the call; nothing if there is none.
        after: so many calls go through before it.
    """
    world = World()
    if not smooth:
        world.programs.failures = {stage: [failure(ExitCode.UNAVAILABLE, "Busy")] for stage in STAGES}
    if fault is not None:
        world.replicas[0].api.fail(fault, after)
    world.apply("bot")
    world.live()
    return world


def edited_life(fault: Fault | None = None, after: int = 0) -> World:
    """Return a world in which a job was edited a moment ago: a stage had failed, a training on two nodes runs."""
    world = World()
    if fault is not None:
        world.replicas[0].api.fail(fault, after)
    world.apply("bot", {"spec.training": {"gpusPerNode": 1, "nodes": 2}})
    for _ in range(5):  # of failed Jobs only the last few stay
        world.programs.failures["prepare"] = [failure(ExitCode.UNAVAILABLE, "Busy")]
        world.finish(one_of(world, "prepare"))
    world.start(one_of(world, "train"))
    world.wait_until(lambda: ("pod_log", "Pod") in world.asked)
    world.edit("bot", lambda item: item["spec"]["training"].update(learningRate="3e-3"))
    return world


def rough_life(fault: Fault | None = None, after: int = 0) -> World:
    """Return a world in which a job on two nodes went its way through all that the operator has calls for."""
    world = edited_life(fault, after)
    first = one_of(world, "train")
    world.wait_until(lambda: not is_active(first))  # it is stopped
    world.held["train"] = "QuotaExceeded"
    world.start(one_of(world, "train"))
    world.wait_until(lambda: world.ready("bot")[1] == "QuotaExceeded")  # Events tell
    world.held.clear()
    world.finish(job := one_of(world, "convert"))
    for pod in world.cluster.pods_of(job):  # it is asked for, and then what it has left is looked up
        world.cluster.remove(pod)
    world.steal_labels(one_of(world, "quantize"))  # no watch tells of it any more: it is asked for
    world.live()
    return world


def removed_life(fault: Fault | None = None, after: int = 0) -> World:
    """Return a world in which a job ended, its Jobs were kept for long enough, and it was deleted with its models.

    Args:
        fault: what goes wrong with a call after the job's end; nothing if there is none.
        after: so many calls after the end go through before it.
    """
    world = World()
    world.apply("bot", {"spec.ollama.deletionPolicy": "Delete", "spec.ttlSecondsAfterFinished": 60})
    world.live()
    world.asked.clear()
    if fault is not None:
        world.replicas[0].api.fail(fault, after)
    world.wait_until(lambda: not world.cluster.jobs())
    world.resync(world.replicas[0])
    world.delete("bot")
    world.live()
    return world


def one_of(world: World, stage: str) -> Object:
    """Return the active Job of a stage, once it is there."""
    world.live_until(stage)
    return next(job for job in world.active() if stage_of(job) == stage)


SMOOTH = [*[(True, False, name) for name in BEFORE], *[(True, True, name) for name in AFTER]]
EACH_STAGE_TWICE = [(False, False, "killed"), (False, True, "killed")]


@pytest.mark.parametrize(("smooth", "took_effect", "error"), [*SMOOTH, *EACH_STAGE_TWICE])
def test_whichever_call_fails_the_job_ends_well(smooth: bool, took_effect: bool, error: str) -> None:
    """Every stage does its work once, the model is served, and nothing is left over.

    A registration that nobody was told of is repeated: what a server serves is not believed, it is proven.
    """
    calls = one_life(smooth=smooth).replicas[0].api.calls
    assert calls > len(STAGES)
    for number in range(calls):
        made = (AFTER if took_effect else BEFORE)[error]
        world = one_life(smooth=smooth, fault=Fault(made(), took_effect), after=number)
        world.check_end()
        assert world.ready("bot") == ("True", "Succeeded"), f"call {number}"
        *keyed, registered = (stage for stage, _ in groupby(world.programs.ran))
        assert [*keyed, registered] == STAGES, f"call {number}"
        assert [world.programs.ran.count(stage) for stage in keyed] == [1] * len(keyed), f"call {number}"


CALLS = {
    ("get", "FineTuneJob"),
    ("replace_status", "FineTuneJob"),
    *[("create", kind) for kind in ("ConfigMap", "Service", "Job")],
    *[("delete", kind) for kind in ("ConfigMap", "Service", "Job")],
    ("get", "Job"),
    ("find", "Pod"),
    ("find", "Event"),
    ("find", "Job"),
    ("pod_log", "Pod"),
    ("finalizers", "FineTuneJob"),
    ("create", "Event"),
    *[("list_all", kind) for kind in ("FineTuneJob", "Job", "Pod")],
}
"""What an operator asks of the API, by verb and kind."""
WRITES = {"create", "delete", "replace_status"}


@pytest.mark.parametrize("took_effect", [False, True])
def test_whichever_call_fails_in_a_rough_life_the_job_ends_well(took_effect: bool) -> None:
    """Failures, an edit, a quota, a lost report: what a smooth life has no calls for fails once, and all ends well.

    So does every write after the edit, though a smooth life has such ones too.
    """
    asked, smooth, edited = rough_life().asked, one_life().asked, len(edited_life().asked)
    assert {*asked, *smooth, *removed_life().asked} == CALLS
    tried = [
        number for number, call in enumerate(asked) if call not in smooth or (number >= edited and call[0] in WRITES)
    ]
    for number in tried:
        error = (AFTER if took_effect else BEFORE)["no answer"]()
        world = rough_life(Fault(error, took_effect), number)
        world.check_end()
        assert world.ready("bot") == ("True", "Succeeded"), f"call {number}"


@pytest.mark.parametrize(
    ("took_effect", "error"), [(False, "no answer"), (False, "killed"), (True, "no answer"), (True, "killed")]
)
def test_whichever_call_fails_the_models_go_with_the_job(took_effect: bool, error: str) -> None:
    """Its Jobs go when their time is over, its models before it does, and one Event tells that they did."""
    calls = len(removed_life().asked)
    for number in range(calls):
        world = removed_life(Fault((AFTER if took_effect else BEFORE)[error](), took_effect), number)
        world.check_end()
        assert (world.names(), world.cluster.jobs(), world.served) == ([], [], {}), f"call {number}"
        events = [event["reason"] for event in world.cluster.of_kind("Event")]
        assert events == ["ModelsRemoved"], f"call {number}"
        assert "removal" in world.programs.ran, f"call {number}"
