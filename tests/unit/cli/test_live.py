"""The line of figures while it trains."""

from __future__ import annotations

import pytest

from tunesmith.cli.live import metrics_in_words

FIGURES = {"loss": 1.20411, "gradNorm": 0.8, "learningRate": 2e-4, "tokensPerSecond": 5120.3, "etaSeconds": 72.0}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "loss 1.204  grad norm 0.8  lr 0.0002  5,120 tok/s  ETA 1:12"),
        ({"evalLoss": 1.3}, "loss 1.204  eval loss 1.3  grad norm 0.8  lr 0.0002  5,120 tok/s  ETA 1:12"),
        (
            {"gpuMemory": 4.1e10, "peakGpuMemory": 6.12e10},
            "loss 1.204  grad norm 0.8  lr 0.0002  5,120 tok/s  61.2 GB on the GPU  ETA 1:12",
        ),
    ],
    ids=["on the CPU", "with held-out rows", "on a GPU"],
)
def test_figures_of_a_step(more: dict[str, float], expected: str) -> None:
    """Every figure that is known is there, in units that people use."""
    assert metrics_in_words({**FIGURES, **more}) == expected
