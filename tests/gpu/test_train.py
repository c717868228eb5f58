"""Stage `train` on one GPU, with a model of a real shape: every way to train it, and to go on after an interruption.

`make gpu` runs these, on any machine with an NVIDIA GPU of 24 GB. Nothing is fetched: the weights are random.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

import pytest

from support.training import PATIENCE, check_same_end, started, steps_done, train, wait_for
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.train.metrics import read_metrics
from tunesmith_stages.volume import Volume

LORA = {"rank": 16, "alpha": 32, "dropout": "0", "targetModules": ["AllLinear"]}
PARAMS: Mapping[str, Any] = {
    "lora": LORA,
    "globalBatchSize": 8,
    "numTrainEpochs": "2",
    "learningRate": "1e-3",
    "gradientCheckpointing": True,
}
GPU = {"gpusPerNode": 1, "perDeviceTrainBatchSize": 4, "gradientAccumulationSteps": 2, "saveSteps": None}
FULL = {"finetuningType": "Full", "lora": None, "learningRate": "1e-4"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "LoRA": ({}, {}),
    "LoRA in FP16": ({"precision": "FP16"}, {}),
    "DoRA": ({"lora": {**LORA, "useDora": True}}, {}),
    "QLoRA": ({"finetuningType": "QLoRA"}, {}),
    "QLoRA, ZeRO 3": ({"finetuningType": "QLoRA", "zeroStage": 3}, {}),
    "Freeze": ({"finetuningType": "Freeze", "lora": None, "freeze": {"trainableLayers": 2}}, {}),
    "Full, ZeRO 2, offload": ({**FULL, "zeroStage": 2}, {"offloadOptimizer": True}),
    "Full, ZeRO 3": ({**FULL, "zeroStage": 3}, {}),
    "Full, ZeRO 3, offload": ({**FULL, "zeroStage": 3}, {"offloadOptimizer": True, "offloadParameters": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_trains(volume: Volume, name: str) -> None:
    """It learns the rows, and says how fast."""
    params, runtime = CASES[name]
    key = "".join(character for character in name if character.isalnum())
    check_learnt(volume, key, {**PARAMS, **params}, {**GPU, **runtime})


def test_packed_rows(volume: Volume) -> None:
    """Packing is proven for the attention that a GPU takes, and trained with."""
    check_learnt(Volume(volume.root / "packed"), "packed", PARAMS, GPU)


def check_learnt(volume: Volume, key: str, params: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
    result = train(volume, key, params=params, runtime=runtime)
    events = read_metrics(volume.unit(StageName.TRAIN, key) / "logs" / "metrics.jsonl")
    losses = [event["loss"] for event in events if "loss" in event]
    assert len(losses) == 16
    assert losses[-1] < losses[0]
    assert result.numbers["tokensPerSecond"] > 0


def test_goes_on_where_it_was_asked_to_end(volume: Volume) -> None:
    """SIGTERM saves at the next step, and the training that goes on ends as one that nobody disturbed."""
    params = {**PARAMS, "numTrainEpochs": "8"}
    train(volume, "straight", params=params, runtime=GPU)
    progress = volume.attempt(StageName.TRAIN, "resumed", "1") / "progress.jsonl"
    with started(volume, "resumed", "1", params, {**GPU, "graceSeconds": 120}) as process:
        wait_for(lambda: steps_done(progress) >= 5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.INTERRUPTED
    train(volume, "resumed", "2", params=params, runtime=GPU)
    check_same_end(volume, "straight", "resumed", tolerance=2e-2)
