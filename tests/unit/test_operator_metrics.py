"""What Prometheus is told of trainings."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.metrics import REGISTRY, show_training

RUNS: dict[str, Any] = {
    "stage": "train",
    "done": 37,
    "total": 100,
    "loss": "1.204",
    "gradNorm": "0.8",
    "learningRate": "0.0002",
    "tokensPerSecond": "5120",
    "etaSeconds": 60,
}
ON_GPU = {**RUNS, "gpuMemoryBytes": 41_000_000_000, "peakGpuMemoryBytes": 61_000_000_000}


def shown(progress: dict[str, Any] | None) -> dict[str, float]:
    """Return what is shown of a job once it has this progress; None: it is gone."""
    show_training("team-a", "bot", None if progress is None else {"status": {"progress": progress}})
    return {
        sample.name.removeprefix("tunesmith_training_"): sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.labels == {"namespace": "team-a", "finetunejob": "bot"}
    }


OF_ALL = {
    "steps": 37,
    "steps_planned": 100,
    "loss": 1.204,
    "grad_norm": 0.8,
    "learning_rate": 0.0002,
    "tokens_per_second": 5120,
    "eta_seconds": 60,
}
OF_GPUS = {"gpu_memory_bytes": 41_000_000_000, "gpu_memory_peak_bytes": 61_000_000_000}
CASES: dict[str, tuple[dict[str, Any] | None, dict[str, float]]] = {
    "on GPUs": (ON_GPU, {**OF_ALL, **OF_GPUS}),
    "on the CPU": (RUNS, OF_ALL),
    "a loss that is none": ({**RUNS, "loss": "much"}, {name: OF_ALL[name] for name in OF_ALL if name != "loss"}),
    "before the first step": ({"stage": "train", "text": "loading the base"}, {}),
    "another stage": ({"stage": "convert", "done": 1, "total": 2}, {}),
    "a job that is gone": (None, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_shown(case: str) -> None:
    """A training that runs shows its figures, those of GPUs where there are some; of others nothing is left."""
    shown(ON_GPU)
    progress, expected = CASES[case]
    assert shown(progress) == expected
