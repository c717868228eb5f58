"""Every call that the operator makes in a job's life fails once, before and after it took effect."""

from __future__ import annotations

from itertools import groupby

import pytest

from faults.world import AFTER, BEFORE, STAGES, Fault, World
from support.fake_cluster import failure
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
