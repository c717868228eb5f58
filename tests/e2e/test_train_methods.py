"""Trainings on preferences as they run: torchrun and DeepSpeed on the CPU, on a tiny Llama with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support.prepared import write_base, write_preferences, write_prepared
from support.training import (
    PATIENCE,
    alive,
    check_same_end,
    failure,
    notes,
    out,
    ranks_of,
    started,
    steps_done,
    train,
    wait_for,
)
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.train.base_answers import FILE
from tunesmith_stages.train.metrics import read_metrics
from tunesmith_stages.volume import Volume

pytestmark = pytest.mark.e2e

NUMBERS: dict[str, dict[str, str]] = {
    "DPO": {"beta": "0.1", "sftWeight": "0.2"},
    "ORPO": {"beta": "0.5"},
    "KTO": {"beta": "0.1", "desirableWeight": "1", "undesirableWeight": "1.2"},
}
BATCH = {"globalBatchSize": 8, "precision": "FP32", "learningRate": "5e-3", "lrSchedule": "Constant"}
AT_ONCE = {
    "processesPerNode": 1,
    "perDeviceTrainBatchSize": 8,
    "perDeviceEvalBatchSize": 9,
    "saveSteps": None,
    "evalSteps": 4,
}
"""All rows of a step in one pass."""
SPLIT = {**AT_ONCE, "processesPerNode": 2, "gradientAccumulationSteps": 2}
SPLIT |= {"perDeviceTrainBatchSize": 2, "perDeviceEvalBatchSize": 2}


def volume_for(root: Path, method: str) -> Volume:
    """Return a volume with a base and 42 rows to learn from: the last of 6 steps has but 2."""
    write_base(root / "base")
    write_preferences(root / "prepared", method, train=42, validation=9)
    return Volume(root)


def params_of(method: str) -> dict[str, Any]:
    return {**BATCH, "method": method, "preference": NUMBERS[method]}


def record(volume: Volume, key: str) -> list[dict[str, Any]]:
    return read_metrics(volume.unit(StageName.TRAIN, key) / "logs" / "metrics.jsonl")


@pytest.mark.parametrize(
    "method", ["DPO", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("ORPO", "KTO"))]
)
def test_a_step_does_not_depend_on_its_split(tmp_path: Path, method: str) -> None:
    """One process or two, one pass or two, rows left over or not: losses, rewards and weights are the same; it learns.

    The gradients that differ from the split ones by rounding end in weights that do by little more.
    """
    volume = volume_for(tmp_path, method)
    runs = {"whole": AT_ONCE, "split": SPLIT}
    results = {key: train(volume, key, params=params_of(method), runtime=runtime) for key, runtime in runs.items()}
    check_same_end(volume, "whole", "split", tolerance=1e-4)
    whole, split = (record(volume, key) for key in runs)
    whole[0].pop("rewardAccuracy", None)  # the model still is its base: margins are nothing but rounding
    for one, other in zip(whole, split, strict=True):
        rewards = {name: value for name, value in one.items() if "eward" in name or name.endswith("Loss")}
        assert rewards == pytest.approx({name: other[name] for name in rewards}, abs=1e-4)
    losses = [event["loss"] for event in whole if "loss" in event]
    assert len(losses) == 12
    assert sum(losses[-3:]) < sum(losses[:3])
    numbers = results["whole"].numbers
    if method == "KTO":
        assert numbers["rewardDesirable"] > numbers["rewardUndesirable"]
        assert {"evalRewardDesirable", "evalRewardUndesirable"} <= numbers.keys()
    else:
        assert numbers["rewardMargin"] > 0
        assert numbers["rewardAccuracy"] > 0.5
        assert {"evalRewardMargin", "evalRewardAccuracy"} <= numbers.keys()


@pytest.mark.parametrize(
    ("method", "training"),
    [
        pytest.param(
            "KTO", {"zeroStage": 3, "gradientCheckpointing": True}, id="KTO, LoRA, ZeRO 3", marks=pytest.mark.nightly
        ),
        pytest.param("DPO", {"finetuningType": "Full", "lora": None}, id="DPO, Full, ZeRO 2"),
    ],
)
def test_goes_on_without_asking_the_base_again(tmp_path: Path, method: str, training: dict[str, Any]) -> None:
    """What the base held of the answers is in the checkpoint: a training that was killed ends as an undisturbed one."""
    volume = volume_for(tmp_path, method)
    params = {**params_of(method), **training, "numTrainEpochs": "3"}
    runtime = {**SPLIT, "saveSteps": 4, "evalSteps": None}
    train(volume, "undisturbed", params=params, runtime=runtime)
    progress = volume.attempt(StageName.TRAIN, "killed", "1") / "progress.jsonl"
    with started(volume, "killed", "1", params, runtime) as process:
        wait_for(lambda: process.poll() is not None or steps_done(progress) >= 6)
        left = ranks_of(process.pid)
        process.kill()
    wait_for(lambda: not any(alive(pid) for pid in left))
    checkpoint = max(volume.checkpoints("killed").glob("step-*/COMPLETE"), key=lambda path: path.stat().st_mtime).parent
    tables = load_file(checkpoint / FILE)
    assert {name: tuple(table.shape) for name, table in tables.items()} == {"train": (42, 2), "validation": (9, 2)}
    assert all(table.isfinite().all() for table in tables.values())
    train(volume, "killed", "2", params=params, runtime=runtime)
    assert "computing with sdpa" in notes(volume, "killed", "1")
    said = [event for event in notes(volume, "killed", "1") if event.startswith("asking the base")]
    assert said == ["asking the base how likely it holds the answers of 51 rows"]
    progress = volume.unit(StageName.TRAIN, "killed") / "progress.jsonl"
    assert "asking the base" not in progress.read_text()
    assert f"going on from {checkpoint.name.replace('-', ' ')}" in progress.read_text()
    names = {path.name for path in out(volume, "killed").glob("*.safetensors")}
    for name in names:
        ours, theirs = (load_file(out(volume, key) / name) for key in ("killed", "undisturbed"))
        for tensor in ours:
            torch.testing.assert_close(ours[tensor], theirs[tensor], rtol=0, atol=0)
    assert names
    assert [event.get("loss") for event in record(volume, "killed")] == [
        event.get("loss") for event in record(volume, "undisturbed")
    ]


def test_only_rows_that_are_used_are_asked_about(tmp_path: Path) -> None:
    """A few steps of many rows need not wait until the base has seen them all."""
    root = tmp_path
    write_base(root / "base")
    write_preferences(root / "prepared", "DPO", train=42)
    volume = Volume(root)
    runtime = {**SPLIT, "saveSteps": 2, "evalSteps": None}
    params = {**params_of("DPO"), "maxSteps": 2, "numTrainEpochs": None}
    checkpoints, kept = volume.checkpoints("few"), root / "kept"
    with started(volume, "few", "1", params, runtime) as process:
        wait_for(lambda: process.poll() is not None or (checkpoints / "step-2" / "COMPLETE").exists())
        if checkpoints.exists():
            shutil.copytree(checkpoints, kept)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    table = load_file(kept / "step-2" / FILE)["train"]
    assert int(table.isfinite().all(1).sum()) == 16


@pytest.mark.parametrize(
    ("method", "rows", "words"),
    [
        pytest.param("DPO", "samples", "holds no pairs of a chosen and a rejected answer", id="no pairs"),
        pytest.param("KTO", "one", "must have at least 2", id="one row"),
    ],
)
def test_what_preferences_cannot_be_learnt_from(tmp_path: Path, method: str, rows: str, words: str) -> None:
    """Rows that were prepared for another method, or are too few, end the training with what is wrong."""
    write_base(tmp_path / "base")
    if rows == "samples":
        write_prepared(tmp_path / "prepared")
    else:
        write_preferences(tmp_path / "prepared", method, train=1)
    volume = Volume(tmp_path)
    with started(volume, "wrong", "1", params_of(method), AT_ONCE | {"gradientAccumulationSteps": 1}) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.BAD_DATA
    assert words in failure(volume, "wrong", "1")["message"]
