"""How the learning rate goes, as transformers is told."""

from __future__ import annotations

import pytest

from support.prepared import PARAMS
from tunesmith_stages.train.optimization import read_optimization


@pytest.mark.parametrize(
    ("warmup", "ratio", "decay"),
    [
        pytest.param({"warmupSteps": 5}, "0.2", 20, id="its share"),
        pytest.param({"warmupSteps": 0, "warmupRatio": "0.6"}, "0.6", 40, id="what a share of warm-up leaves"),
        pytest.param({"warmupSteps": 90}, "0.5", 10, id="what steps of warm-up leave"),
        pytest.param({"warmupSteps": 200}, "0.5", 1, id="never none"),
        pytest.param({"warmupSteps": 0}, "0", 1, id="a share of 0"),
    ],
)
def test_the_rate_falls_only_once_it_has_risen(warmup: dict[str, object], ratio: str, decay: int) -> None:
    """Transformers would jump into the middle of the decay, if that began within the warm-up."""
    options = {"lrSchedule": "WarmupStableDecay", "lrScheduleOptions": {"decayRatio": ratio}}
    schedule = read_optimization({**PARAMS, **options, **warmup}).schedule
    assert schedule.options_for(100) == {"num_decay_steps": decay}
