from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tunesmith_stages.prepare.collecting import Collected
from tunesmith_stages.prepare.spool import KeptSamples


@pytest.mark.parametrize("offered", [10, 256, 257, 5000, 100_000])
def test_prompts_to_choose_from_are_spread_evenly(offered: int, tmp_path: Path) -> None:
    """However many are offered, some hundred are kept in bounded memory: evenly, from the first to nearly the last."""
    collected = Collected([], KeptSamples(tmp_path))
    for number in range(offered):
        collected.offer({"text": str(number)})
    kept = [int(prompt["text"]) for prompt in collected.prompts]
    assert len(kept) == offered if offered <= 256 else 128 <= len(kept) <= 256
    steps = {later - earlier for earlier, later in itertools.pairwise(kept)}
    assert len(steps) == 1
    assert kept[0] == 0
    assert kept[-1] >= offered - max(steps)
