"""What the benchmark on a GPU compares; it runs on none here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # benchmarks are scripts, not a package that is installed

from benchmarks.train_gpu import ACCUMULATION, CASES, PACKED, Case, mfu, zero_of  # noqa: E402

from support.gpu_shapes import SHAPES  # noqa: E402


def test_every_case_has_a_name_of_its_own() -> None:
    """Figures are told apart by it, and every way to train that costs speed or memory is there."""
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert {case.kind for case in CASES} == {"LoRA", "QLoRA", "Full"}
    assert {case.shape for case in CASES} <= SHAPES.keys()
    assert any(case.packed for case in CASES)
    assert {case.zero_stage for case in CASES if case.offload} == {2, 3}
    assert ACCUMULATION % PACKED == 0


def test_offload_is_said_in_deepspeeds_words() -> None:
    """ZeRO 2 has the weights on the GPU; only ZeRO 3 can leave them in the machine's memory."""
    assert zero_of(Case("0.5B", "Full")) == {"stage": 2}
    assert zero_of(Case("0.5B", "Full", zero_stage=2, offload=True)).keys() == {"stage", "offload_optimizer"}
    assert "offload_param" in zero_of(Case("0.5B", "Full", zero_stage=3, offload=True))


def test_the_share_of_the_peak() -> None:
    """All weights cost 6 operations a token, frozen ones 4; of a GPU that is not known nothing is claimed."""
    shape = SHAPES["0.5B"]
    full, lora = (mfu(shape, Case("0.5B", kind), 10_000.0, "NVIDIA H100 80GB HBM3") for kind in ("Full", "LoRA"))
    assert full is not None
    assert lora is not None
    assert full - lora == pytest.approx(2 * shape.computed * 10_000 / 989e12)
    assert mfu(shape, Case("0.5B", "Full"), 1.0, "a GPU of tomorrow") is None
