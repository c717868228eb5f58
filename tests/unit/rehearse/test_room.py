from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.rehearse import room
from tunesmith_stages.rehearse.estimates import Training

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
    "states": (STATES, TRAINING, "Use `finetuningType: LoRA`, or set `deepspeed.zeroStage` to 3, or use more"),
    "states, shared out already": (STATES, dataclasses.replace(TRAINING, zero_stage=3), "LoRA`, or use more"),
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
