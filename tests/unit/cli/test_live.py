"""The line of figures while it trains."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tunesmith.cli.live import LiveView, metrics_in_words
from tunesmith.core.model import PlannedStage, StageState
from tunesmith_stages.contract import StageName

FIGURES = {"loss": 1.20411, "gradNorm": 0.8, "learningRate": 2e-4, "tokensPerSecond": 5120.3, "etaSeconds": 72.0}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "loss 1.204  grad norm 0.8  lr 0.0002  5,120 tok/s  ETA 1:12"),
        ({"evalLoss": 1.3}, "loss 1.204  eval loss 1.3  grad norm 0.8  lr 0.0002  5,120 tok/s  ETA 1:12"),
        (
            {"gpuMemory": 4.1e10, "peakGpuMemory": 6.12e10},
            "loss 1.204  grad norm 0.8  lr 0.0002  5,120 tok/s  41.0 GB, at most 61.2 GB on the GPU  ETA 1:12",
        ),
        (
            {"peakGpuMemory": 6.12e10},
            "loss 1.204  grad norm 0.8  lr 0.0002  5,120 tok/s  61.2 GB on the GPU  ETA 1:12",
        ),
    ],
    ids=["on the CPU", "with held-out rows", "on a GPU", "at the end"],
)
def test_figures_of_a_step(more: dict[str, float], expected: str) -> None:
    """Every figure that is known is there, in units that people use."""
    assert metrics_in_words({**FIGURES, **more}) == expected


EVENTS: dict[str, tuple[dict[str, Any], str]] = {
    "a note": ({"note": "loading the base"}, "train     loading the base"),
    "figures": (
        {"done": 7, "total": 10, "of": "steps", "metrics": {"loss": 1.25}},
        "train     7/10 steps  loss 1.25",
    ),
    "what is done beside": (
        {"note": "evaluating: 3 of 40 batches", "done": 7, "total": 10, "of": "steps", "metrics": {"loss": 1.25}},
        "train     evaluating: 3 of 40 batches  7/10 steps  loss 1.25",
    ),
}


@pytest.mark.parametrize("case", EVENTS)
def test_an_event_on_a_line(case: str) -> None:
    """Where there is no terminal, each event with words or figures is a line."""
    event, expected = EVENTS[case]
    printed = io.StringIO()
    with LiveView(Console(file=printed)) as view:
        view.begins(PlannedStage(StageName.TRAIN, StageState.READY))
        view.event(StageName.TRAIN, event)
    assert printed.getvalue().splitlines()[-1] == expected
