from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from support.builders import result_of
from support.prepared import random_pairs, write_pairs
from tunesmith_stages.contract import ExitCode, StageName, UnitConfig
from tunesmith_stages.program import StageError, Work
from tunesmith_stages.rehearse import room
from tunesmith_stages.rehearse.estimates import Training
from tunesmith_stages.train.methods import Method
from tunesmith_stages.volume import Volume

GIB = 2**30
STATES = {"weights": 14 * GIB, "gradients": 14 * GIB, "optimizer": 84 * GIB, "activations": GIB}
ACTIVATIONS = {"weights": 14 * GIB, "gradients": 0, "optimizer": 0, "activations": 90 * GIB}
TRAINING = Training(
    full=True,
    trained=7 * 10**9,
    word=2,
    zero_stage=2,
    checkpointing=False,
    micro_batch=4,
    accumulation=1,
    ranks=4,
    longest=4096,
    rows=10,
    tokens=10_000,
    epochs=1.0,
    max_steps=None,
)


def estimates(parts: dict[str, int], there: int | None) -> dict[str, Any]:
    return {"gpuMemoryBytes": sum(parts.values()), "gpuMemoryOf": there, "parts": parts}


REFUSED = {
    "states": (
        STATES,
        TRAINING,
        "LoRA`, or set `deepspeed.zeroStage` to 3, or set `deepspeed.offloadOptimizer`, or use more",
    ),
    "states, shared out already": (
        STATES,
        dataclasses.replace(TRAINING, zero_stage=3),
        "LoRA`, or set `deepspeed.offloadOptimizer`, or use more",
    ),
    "weights": (
        {"weights": 140 * GIB, "gradients": 0, "optimizer": 0, "activations": GIB},
        dataclasses.replace(TRAINING, full=False, trained=10**7, zero_stage=3),
        "Use `finetuningType: QLoRA`, or use more",
    ),
    "activations": (ACTIVATIONS, TRAINING, "Set `training.gradientCheckpointing`, or lower `perDeviceTrainBatchSize`"),
    "activations of one row": (
        ACTIVATIONS,
        dataclasses.replace(TRAINING, checkpointing=True, micro_batch=1),
        "Lower `sequenceLength`.",
    ),
}


@pytest.mark.parametrize(("parts", "training", "hint"), REFUSED.values(), ids=REFUSED)
def test_what_clearly_does_not_fit_is_refused(parts: dict[str, int], training: Training, hint: str) -> None:
    """The hint names what to change by what takes most; what is as it should be is not named."""
    with pytest.raises(StageError, match=r"they have 80\.0 GiB") as caught:
        room._memory_suffices(estimates(parts, 80 * GIB), training)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "GpuMemoryTooSmall")
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("there", "says"),
    [(None, "is not known"), (100 * GIB, "it may not suffice"), (120 * GIB, "they have 120.0 GiB")],
)
def test_what_may_fit_is_told(there: int | None, says: str) -> None:
    """An estimate is rough: what exceeds the memory by less than a fifth is a warning, and unknown memory is none."""
    assert room._memory_suffices(estimates(STATES, there), TRAINING).endswith(says)


def test_what_a_training_has_left(tmp_path: Path) -> None:
    """Checkpoints of a training that was interrupted are counted, and a training that is done is known."""
    volume, key = Volume(tmp_path), "ab" * 32
    work = cast(Work, SimpleNamespace(volume=volume, params={"training": [key]}))
    assert room.trained_before(work) == (False, 0)
    folder = volume.checkpoints(key) / "checkpoint-5"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"12345")
    assert room.trained_before(work) == (False, 5)
    made = result_of(StageName.TRAIN, UnitConfig(StageName.TRAIN, key, {}, {}))
    out = volume.unit(StageName.TRAIN, key) / "out"
    out.mkdir(parents=True)
    made = dataclasses.replace(made, path=volume.relative(out))
    (volume.unit(StageName.TRAIN, key) / "result.json").write_text(made.to_json())
    assert room.trained_before(work)[0]


def test_both_answers_of_a_pair_are_counted(tmp_path: Path) -> None:
    """A rejected answer is taken through the model like a chosen one; what KTO has is as long as its rows."""
    pairs = random_pairs(5)
    write_pairs(tmp_path / "train.arrow", pairs)
    own = [len(chosen[0]) for chosen, _ in pairs]
    assert room.sequence_lengths(tmp_path, None) == room.sequence_lengths(tmp_path, Method.KTO) == own
    both = own + [len(rejected[0]) for _, rejected in pairs]
    assert room.sequence_lengths(tmp_path, Method.DPO) == room.sequence_lengths(tmp_path, Method.ORPO) == both


def test_space_on_the_volume() -> None:
    """Too little space is refused as a full disk is: it is worth another try once there is more."""
    assert room._disk_suffices({"diskBytes": GIB, "freeBytes": GIB}) == "about 1.0 GiB of 1.0 that are free"
    assert room._disk_suffices({"diskBytes": 11 * GIB, "freeBytes": 10 * GIB}).endswith("it may not suffice")
    with pytest.raises(StageError) as caught:
        room._disk_suffices({"diskBytes": 13 * GIB, "freeBytes": 10 * GIB})
    assert (caught.value.code, caught.value.reason) == (ExitCode.NO_SPACE, "NoSpace")


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"max_position_embeddings": 20}, True),
        ({"max_position_embeddings": 19}, False),
        ({"text_config": {"max_position_embeddings": 19}}, False),
        ({}, True),
    ],
)
def test_rows_must_fit_into_the_context(config: dict[str, Any], fits: bool) -> None:
    """A row may be as long as what the base reads at once, if config.json says how much that is."""
    if fits:
        assert "20 tokens" in room.rows_fit(config, [3, 20])
        return
    with pytest.raises(StageError) as caught:
        room.rows_fit(config, [3, 20])
    assert caught.value.reason == "RowsLongerThanContext"


@pytest.mark.parametrize(
    ("seconds", "device", "says"),
    [
        (7500.0, "GPU", "0.5 million million operations; about 2 h 5 min if each GPU does 100 TFLOPS"),
        (3.0, "process", "about 1 min if each process does 0.05 TFLOPS"),
    ],
)
def test_time_says_what_it_follows_from(seconds: float, device: str, says: str) -> None:
    """Nobody knows how fast the devices will be: the sentence names the speed that it counts with."""
    counted = {"steps": 20, "tokens": 4000, "operations": 5 * 10**11, "seconds": seconds}
    assert room._length(counted, device).startswith("20 steps, 4,000 tokens, ")
    assert says in room._length(counted, device)
