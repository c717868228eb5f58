"""Stage `train` on one GPU, with models of real shapes: every way to train them, and to go on after an interruption.

`make gpu` runs these, on any machine with an NVIDIA GPU of 24 GB and 48 GB of memory. Nothing is fetched: the weights
are random.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from gpu.conftest import MakeVolume
from support.gpu_shapes import SHAPES
from support.training import PATIENCE, check_same_end, notes_of, started, steps_done, train, wait_for
from tunesmith_stages.contract import ExitCode, StageName, StageResult
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
STEPS = 16
GPU = {"gpusPerNode": 1, "perDeviceTrainBatchSize": 4, "gradientAccumulationSteps": 2, "saveSteps": None}
FULL = {"finetuningType": "Full", "lora": None, "learningRate": "1e-4"}
Case = tuple[str, dict[str, Any], dict[str, Any]]
CASES: dict[str, Case] = {
    "LoRA": ("0.5B", {}, {}),
    "LoRA, 1.5B": ("1.5B", {}, {}),
    "LoRA, 8B": ("8B, 4 layers", {}, {}),
    "LoRA in FP16": ("0.5B", {"precision": "FP16"}, {}),
    "LoRA in FP32": ("0.5B", {"precision": "FP32"}, {}),
    "LoRA, ZeRO 3": ("0.5B", {"zeroStage": 3}, {}),
    "LoRA on the output layer": ("8B, 4 layers", {"lora": {**LORA, "targetModules": ["q_proj", "lm_head"]}}, {}),
    "DoRA": ("0.5B", {"lora": {**LORA, "useDora": True}}, {}),
    "QLoRA": ("0.5B", {"finetuningType": "QLoRA"}, {}),
    "QLoRA, 8B": ("8B, 4 layers", {"finetuningType": "QLoRA"}, {}),
    "QLoRA, ZeRO 3": ("0.5B", {"finetuningType": "QLoRA", "zeroStage": 3}, {}),
    "Freeze": ("0.5B", {"finetuningType": "Freeze", "lora": None, "freeze": {"trainableLayers": 2}}, {}),
    "Full": ("0.5B", FULL, {}),
    "Full, ZeRO 2, offload": ("1.5B", {**FULL, "zeroStage": 2}, {"offloadOptimizer": True}),
    "Full, ZeRO 3": ("0.5B", {**FULL, "zeroStage": 3}, {}),
    "Full, ZeRO 3, offload": (
        "8B, 4 layers",
        {**FULL, "zeroStage": 3},
        {"offloadOptimizer": True, "offloadParameters": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_trains(volume_of: MakeVolume, name: str) -> None:
    """It learns the rows, and says how fast, in how much memory and with which kernels."""
    shape, params, runtime = CASES[name]
    given = {**PARAMS, **params}
    result = check_learnt(volume_of(shape), key_of(name), given, {**GPU, **runtime}, STEPS)
    fused = "lm_head" not in (given["lora"] or {}).get("targetModules", [])
    assert ("loss in the output layer" in result.outputs["kernels"]) == fused
    if given["finetuningType"] == "QLoRA":
        in_16_bits = 2 * SHAPES[shape].in_layers
        assert result.numbers["peakGpuMemory"] < in_16_bits + 8e9


def test_packed_rows(volume_of: MakeVolume) -> None:
    """Packing is proven for the attention that a GPU takes, and trained with, several packed rows at a time."""
    volume = Volume(volume_of("0.5B").root / "packed")
    check_learnt(volume, "packed", PARAMS, GPU, STEPS // 2)


def test_packed_rows_have_the_loss_of_their_samples(volume_of: MakeVolume) -> None:
    """The first step's loss is the same whether samples are packed or not: none sees another one, in no kernel."""
    volume = volume_of("0.5B")
    once = {**PARAMS, "numTrainEpochs": None, "maxSteps": 1, "globalBatchSize": 64}
    train(volume, "apart", params=once, runtime={**GPU, "gradientAccumulationSteps": 16})
    packed = Volume(volume.root / "packed")
    once |= {"globalBatchSize": 32}
    train(packed, "together", params=once, runtime={**GPU, "gradientAccumulationSteps": 8})
    assert losses_of(packed, "together") == pytest.approx(losses_of(volume, "apart"), abs=2e-2)


@pytest.mark.skipif(find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
def test_liger_is_used_and_learns_the_same(volume_of: MakeVolume) -> None:
    """Where Liger is installed it is used, and the losses are those without it, but for rounding."""
    with_it, without = both_ways(volume_of("0.5B"), "liger", "liger_kernel")
    assert "liger" in with_it.outputs["kernels"]
    assert "liger" not in without.outputs["kernels"]
    assert with_it.numbers["peakGpuMemory"] <= 1.05 * without.numbers["peakGpuMemory"]


@pytest.mark.skipif(find_spec("flash_attn") is None, reason="flash-attn is not installed")
def test_flash_attention_is_used_and_learns_the_same(volume_of: MakeVolume) -> None:
    """Where FlashAttention is installed it is used, and the losses are those without it, but for rounding."""
    if torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("FlashAttention needs a GPU of the Ampere generation or later")
    with_it, without = both_ways(volume_of("0.5B"), "flash", "flash_attn", "flash_attn_interface")
    assert with_it.outputs["kernels"][0].startswith("flash_attention_")
    assert without.outputs["kernels"][0] == "sdpa"


def both_ways(volume: Volume, key: str, *hidden: str) -> tuple[StageResult, StageResult]:
    """Train with and without some packages; check that the losses agree."""
    with_them = check_learnt(volume, f"{key}1", PARAMS, GPU, STEPS)
    without = volume.root / f"without-{key}"
    without.mkdir()
    # A module of that name that cannot be imported stands before the package.
    text = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in hidden)
    (without / "sitecustomize.py").write_text(text)
    environ = {"PYTHONPATH": os.pathsep.join([str(without), *sys.path])}
    with started(volume, f"{key}2", "1", PARAMS, GPU, environ=environ) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    plain = volume.result(StageName.TRAIN, f"{key}2")
    assert plain is not None
    assert losses_of(volume, f"{key}1") == pytest.approx(losses_of(volume, f"{key}2"), abs=5e-2)
    return with_them, plain


def key_of(name: str) -> str:
    return "".join(character for character in name if character.isalnum())


def losses_of(volume: Volume, key: str) -> list[float]:
    events = read_metrics(volume.unit(StageName.TRAIN, key) / "logs" / "metrics.jsonl")
    return [event["loss"] for event in events if "loss" in event]


def check_learnt(
    volume: Volume, key: str, params: Mapping[str, Any], runtime: Mapping[str, Any], steps: int
) -> StageResult:
    """Train; check that it got better, and that what is told of a GPU is told."""
    result = train(volume, key, params=params, runtime=runtime)
    losses = losses_of(volume, key)
    assert len(losses) == steps
    assert losses[-1] < losses[0]
    assert result.numbers["tokensPerSecond"] > 0
    assert 1e8 < result.numbers["peakGpuMemory"] < torch.cuda.get_device_properties(0).total_memory
    last = read_metrics(volume.unit(StageName.TRAIN, key) / "logs" / "metrics.jsonl")[-1]
    assert 0 < last["gpuMemory"] <= last["peakGpuMemory"]
    assert any(note.startswith("computing with ") for note in notes_of(volume.unit(StageName.TRAIN, key)))
    return result


@pytest.mark.parametrize("more", [{}, {**FULL, "zeroStage": 3}], ids=["LoRA", "Full, ZeRO 3"])
def test_goes_on_where_it_was_asked_to_end(volume_of: MakeVolume, more: dict[str, Any]) -> None:
    """SIGTERM saves at the next step, and the training that goes on ends as one that nobody disturbed."""
    volume = volume_of("0.5B")
    params, kind = {**PARAMS, **more, "numTrainEpochs": "8"}, "full" if more else "lora"
    train(volume, f"straight{kind}", params=params, runtime=GPU)
    progress = volume.attempt(StageName.TRAIN, f"resumed{kind}", "1") / "progress.jsonl"
    with started(volume, f"resumed{kind}", "1", params, {**GPU, "graceSeconds": 300}) as process:
        wait_for(lambda: steps_done(progress) >= 5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.INTERRUPTED
    train(volume, f"resumed{kind}", "2", params=params, runtime=GPU)
    assert losses_of(volume, f"resumed{kind}") == pytest.approx(losses_of(volume, f"straight{kind}"), abs=2e-2)
    if not more:
        check_same_end(volume, f"straight{kind}", f"resumed{kind}", tolerance=2e-2)
