"""What can be set about a training, as it runs: each setting is seen to do what it says."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from support.prepared import PARAMS, write_base, write_prepared
from support.training import (
    PATIENCE,
    check_same_end,
    failure,
    out,
    ranks_of,
    started,
    steps_done,
    train,
    wait_for,
)
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.convert.adapter import Adapter
from tunesmith_stages.convert.merge import merge
from tunesmith_stages.program import StageError
from tunesmith_stages.train.guards import Guards
from tunesmith_stages.train.limits import Limits
from tunesmith_stages.train.metrics import read_metrics
from tunesmith_stages.volume import Volume

pytestmark = pytest.mark.e2e

ONE = {"processesPerNode": 1, "gradientAccumulationSteps": 2, "saveSteps": None}
RATE = 1e-2


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Return a volume with a base and 40 prepared rows: ten steps an epoch."""
    root = tmp_path_factory.mktemp("volume")
    write_base(root / "base")
    write_prepared(root / "prepared", train=40)
    return Volume(root)


def rates(volume: Volume, key: str) -> list[float]:
    """Return the learning rate after each step."""
    events = read_metrics(volume.unit(StageName.TRAIN, key) / "logs" / "metrics.jsonl")
    return [event["learningRate"] for event in events if "loss" in event]


def base_tensors(volume: Volume) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(volume.root / "base" / "model.safetensors")
    return tensors


def test_everything_about_an_adapter_at_once(volume: Volume) -> None:
    """rsLoRA, LoRA+, NEFTune, Adam's own, a warm-up by its share, rows read ahead: the rates are those asked for."""
    lora = {"rank": 4, "alpha": 8, "dropout": "0", "targetModules": ["q_proj"], "useRslora": True, "plusLrRatio": "4"}
    params: dict[str, Any] = {
        "lora": lora,
        "lrSchedule": "CosineWithMinLR",
        "lrScheduleOptions": {"minLrRatio": "0.5"},
        "warmupSteps": 0,
        "warmupRatio": "0.2",
        "adam": {"beta1": "0.8", "beta2": "0.95", "epsilon": "1e-6"},
        "neftuneNoiseAlpha": "1",
    }
    result = train(volume, "adapter", params=params, runtime={**ONE, "dataloaderWorkers": 1})
    found = rates(volume, "adapter")
    assert len(found) == 20
    assert found[:4] == pytest.approx([0, RATE / 4, RATE / 2, RATE * 3 / 4])
    assert found[4] == pytest.approx(RATE)
    assert found[4:] == sorted(found[4:], reverse=True)
    assert RATE / 2 < found[-1] < 0.51 * RATE
    assert math.isfinite(result.numbers["loss"])


@pytest.mark.parametrize("stage", [*(pytest.param(stage, marks=pytest.mark.nightly) for stage in (0, 2)), 3])
def test_the_rate_of_b_is_so_many_times_as_high(volume: Volume, stage: int) -> None:
    """Adam's first step is as long as the rate, and B begins at 0. A training shorter than a report has a last loss."""
    lora = {"rank": 4, "alpha": 8, "dropout": "0", "targetModules": ["q_proj"], "plusLrRatio": "4"}
    params: dict[str, Any] = {"lora": lora, "zeroStage": stage, "precision": "FP32", "lrSchedule": "Polynomial"}
    steps = {"numTrainEpochs": None, "maxSteps": 1, "warmupSteps": 0}
    key = f"plus-{stage}"
    result = train(volume, key, params={**params, **steps}, runtime={**ONE, "loggingSteps": 10})
    saved = load_file(out(volume, key) / "adapter_model.safetensors")
    longest = max(float(tensor.abs().max()) for name, tensor in saved.items() if "lora_B" in name)
    assert longest == pytest.approx(4 * RATE, rel=0.01)
    assert math.isfinite(result.numbers["loss"])


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.nightly), 3])
def test_a_dora_is_saved_as_it_is_merged(volume: Volume, tmp_path: Path, stage: int) -> None:
    """Magnitudes are trained and saved beside the factors, and the merge brings every row to its length."""
    lora = {"rank": 4, "alpha": 8, "dropout": "0", "targetModules": ["AllLinear"], "useDora": True}
    key = f"dora-{stage}"
    train(volume, key, params={"lora": lora, "zeroStage": stage}, runtime=ONE)
    merge(volume.root / "base", Adapter(out(volume, key)), tmp_path, lambda _: None)
    merged = load_file(tmp_path / "model.safetensors")
    saved = load_file(out(volume, key) / "adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    lengths = saved[f"base_model.model.{name}.lora_magnitude_vector"].float()
    assert not torch.equal(
        lengths, base_tensors(volume)[f"{name}.weight"].float().norm(dim=1).to(torch.bfloat16).float()
    )
    torch.testing.assert_close(merged[f"{name}.weight"].float().norm(dim=1), lengths, rtol=0.01, atol=0)


def test_only_the_last_layers_are_trained(volume: Volume) -> None:
    """`Freeze` leaves everything but so many of the last layers as it is, and saves the whole model."""
    params = {"finetuningType": "Freeze", "lora": None, "freeze": {"trainableLayers": 1}, "gradientCheckpointing": True}
    train(volume, "freeze", params=params, runtime=ONE)
    before, after = base_tensors(volume), load_file(out(volume, "freeze") / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".layers.1." in name}


# --- where it ends ---------------------------------------------------------------------------------------------------

MEASURED = {**ONE, "evalSteps": 2, "saveSteps": None}
TOO_FAST = {"learningRate": "0.3", "lrSchedule": "Constant", "warmupSteps": 0}
"""With it the loss on held-out rows is lowest after the first steps."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Return a volume with held-out rows, too."""
    root = tmp_path_factory.mktemp("measured")
    write_base(root / "base")
    write_prepared(root / "prepared", train=40, validation=9)
    return Volume(root)


def test_stops_early_and_goes_back_to_its_best(measured: Volume) -> None:
    """The weights are those of the lowest loss on held-out rows, and a training that gets no better is stopped."""
    params = {**TOO_FAST, "keepBest": True, "earlyStopping": {"patience": 2, "minDelta": "0"}}
    result = train(measured, "best", params=params, runtime={**MEASURED, "keep": 1})
    events = read_metrics(measured.unit(StageName.TRAIN, "best") / "logs" / "metrics.jsonl")
    losses = {event["step"]: event["evalLoss"] for event in events if "evalLoss" in event}
    best = min(losses, key=losses.__getitem__)
    assert result.outputs["bestStep"] == best
    assert max(losses) == best + 4 < 20
    train(measured, "straight", params={**TOO_FAST, "maxSteps": best, "numTrainEpochs": None}, runtime=MEASURED)
    tensors = [load_file(out(measured, key) / "adapter_model.safetensors") for key in ("best", "straight")]
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensor, tensors[1][name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("params", "guards", "reason"),
    [
        pytest.param({"learningRate": "1e38", "maxGradNorm": "0"}, {}, "LossNotFinite", id="no number"),
        pytest.param({"learningRate": "1e-9"}, {"maxFinalLoss": "0.5"}, "FinalLossTooHigh", id="too high at the end"),
    ],
)
def test_a_training_that_goes_wrong_is_ended(
    volume: Volume, params: dict[str, Any], guards: dict[str, Any], reason: str
) -> None:
    """It ends as soon as that shows, with the word for it, and nothing is published."""
    key = f"wrong-{reason}"
    with started(volume, key, "1", params, {**ONE, "guards": guards}) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.GATE_FAILED
    assert failure(volume, key, "1")["reason"] == reason
    assert volume.result(StageName.TRAIN, key) is None
    picture = volume.attempt(StageName.TRAIN, key, "1") / "logs" / "loss.png"
    assert picture.read_bytes().startswith(b"\x89PNG"), "where it went wrong is to be seen"


def test_a_process_that_hangs_is_noticed(volume: Volume) -> None:
    """No step for so long: the training is ended, and each rank's log tells where it stood."""
    progress = volume.attempt(StageName.TRAIN, "hang", "1") / "progress.jsonl"
    runtime = {"saveSteps": None, "guards": {"stallSeconds": 20}}
    with started(volume, "hang", "1", {"numTrainEpochs": "500"}, runtime) as process:
        wait_for(lambda: steps_done(progress) > 3)
        os.kill(ranks_of(process.pid)[1], signal.SIGSTOP)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.TEMPORARY
    found = failure(volume, "hang", "1")
    assert found["reason"] == "TrainingStalled"
    log = (volume.attempt(StageName.TRAIN, "hang", "1") / "logs" / "rank-0.log").read_text()
    assert "most recent call first" in log


@pytest.mark.nightly
def test_ranks_that_wait_in_vain_are_a_stall(volume: Volume) -> None:
    """They time out before the program sees the hang, as with the defaults: it is tried again, for the same reason."""
    progress = volume.attempt(StageName.TRAIN, "vain", "1") / "progress.jsonl"
    with started(
        volume, "vain", "1", {"numTrainEpochs": "500"}, {"saveSteps": None, "ddpTimeoutSeconds": 60}
    ) as process:
        wait_for(lambda: steps_done(progress) > 3 or process.poll() is not None)
        os.kill(ranks_of(process.pid)[1], signal.SIGSTOP)  # torchrun must kill it, which is no cause
        process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.TEMPORARY
    found = failure(volume, "vain", "1")
    assert found["reason"] == "TrainingStalled"
    assert found["message"].startswith("rank 0 waited for other ranks for longer than `ddpTimeoutSeconds`")


def test_a_jump_of_the_loss_is_noticed() -> None:
    """A loss is compared with the median of those before, from the sixth on."""
    state = TrainerState()
    guards = Guards(Limits(spike=2.0), 1e-4)

    def report(loss: float) -> None:
        state.global_step += 1
        state.log_history.append({"loss": loss, "step": state.global_step})
        guards.on_log(None, state, TrainerControl(), {"loss": loss})

    for loss in (9.0, 1.0, 1.1, 0.9, 1.0, 1.9):
        report(loss)
    with pytest.raises(StageError, match=r"jumped to 2\.3 at step 7; it was about 1\.05 before") as caught:
        report(2.3)
    assert caught.value.reason == "LossSpike"


@pytest.mark.nightly
def test_smaller_batches_when_memory_runs_out(tmp_path: Path) -> None:
    """It goes on with fewer rows at a time, as often as it takes; the losses are those of the same rows at once."""
    vocabulary, batch = 50_000, 256
    volume = Volume(tmp_path)
    write_base(tmp_path / "base", vocabulary=vocabulary)
    write_prepared(tmp_path / "prepared", train=batch, vocabulary=vocabulary)
    params: dict[str, Any] = {"globalBatchSize": batch, "maxSteps": 2, "numTrainEpochs": None, "learningRate": "1e-4"}
    # With an adapter on the output layer the logits are there all at once, and more than there is memory for.
    params["lora"] = {**PARAMS["lora"], "targetModules": ["q_proj", "lm_head"]}
    at_once = {"processesPerNode": 1, "gradientAccumulationSteps": 1, "perDeviceTrainBatchSize": batch}
    limited = ["prlimit", f"--data={4 * 2**30}"]
    with started(volume, "fails", "1", params, {**ONE, **at_once}, within=limited) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.OUT_OF_MEMORY
    with started(volume, "k", "1", params, {**ONE, **at_once, "onOutOfMemory": "Reduce"}, within=limited) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    told = (volume.unit(StageName.TRAIN, "k") / "progress.jsonl").read_text().splitlines()
    said = [event["note"] for event in map(json.loads, told) if event.get("note", "").startswith("out of memory")]
    assert said[0] == "out of memory with 256 rows at a time: going on with 128, in 2 passes instead of 1"
    result = volume.result(StageName.TRAIN, "k")
    assert result is not None
    assert result.numbers["microBatchSize"] == batch // 2 ** len(said)
    train(
        volume, "small", params=params, runtime={**ONE, "gradientAccumulationSteps": 32, "perDeviceTrainBatchSize": 8}
    )
    check_same_end(volume, "small", "k")
