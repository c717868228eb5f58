"""Kernels that are used where they are there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support.prepared import PARAMS, RUNTIME, packed_rows, tiny_llama, write_packed_rows
from tunesmith_stages.program import StageError
from tunesmith_stages.train import kernels
from tunesmith_stages.train.kernels import use_kernels, used_kernels
from tunesmith_stages.train.model import load_base
from tunesmith_stages.train.rows import Rows, flatten
from tunesmith_stages.train.settings import Precision, read_settings
from tunesmith_stages.train.trainer import collate, token_loss


def test_a_cpu_has_none() -> None:
    """On a CPU nothing is changed, whatever is installed."""
    model = tiny_llama()
    layers = [type(module) for module in model.modules()]
    use_kernels(model, read_settings(PARAMS, RUNTIME))
    assert used_kernels(model) == ["sdpa"]
    assert [type(module) for module in model.modules()] == layers


OTHER: dict[str, tuple[dict[str, Any], set[str]]] = {
    "the usual": ({}, {"geglu"}),
    "another activation": ({"hidden_act": "gelu"}, {"swiglu", "geglu"}),
    "Gemma's": ({"hidden_act": "gelu_pytorch_tanh"}, {"swiglu"}),
    "a mixture of experts": ({"num_local_experts": 4}, {"swiglu", "geglu"}),
}


@pytest.mark.parametrize("case", OTHER)
def test_kernels_that_compute_something_else_are_left_out(case: str) -> None:
    """Liger's layers have their activation built in: with another one the model would be another."""
    config, expected = OTHER[case]
    assert set(kernels._other_layers(tiny_llama(**config).config)) == expected


def test_a_flat_batch_is_its_rows(tmp_path: Path) -> None:
    """Rows one after the other, in one row without padding, have the loss that they have one below the other."""
    write_packed_rows(tmp_path / "train.arrow", packed_rows(40, capacity=64))
    rows = Rows(tmp_path / "train.arrow")
    taken = [rows[number] for number in range(len(rows))]
    model = tiny_llama(initializer_range=0.3).eval()
    model.config.use_cache = False
    losses = []
    for flat in (False, True):
        batch = collate(taken, packed=True, flat=flat)
        labels = batch.pop("labels")
        with torch.no_grad():
            losses.append(float(token_loss(model(**batch), labels)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert len(flatten(taken)["input_ids"]) == 1


def test_a_flat_batch_of_nothing_is_a_token() -> None:
    """A rank without rows takes part all the same."""
    assert flatten([])["input_ids"].shape == (1, 1)
    assert (flatten([])["labels"] == -100).all()


def test_four_bits_need_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QLoRA without bitsandbytes is refused in words, with what to do, before anything is read."""
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(StageError, match="the package `bitsandbytes`") as caught:
        load_base(tmp_path, Precision.BF16, quantized=True)
    assert caught.value.reason == "QuantizerMissing"
