from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support.prepared import VOCABULARY, packed_rows, tiny_llama, write_packed_rows
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.packing_proof import TOLERANCE, prove_packing
from tunesmith_stages.train.rows import Row, Rows
from tunesmith_stages.train.settings import Precision
from tunesmith_stages.train.trainer import collate, token_loss

Change = Callable[[dict[str, torch.Tensor]], dict[str, Any]]


def a_model(attention: str) -> Any:
    model = tiny_llama(initializer_range=0.3, attn_implementation=attention).eval()
    model.config.use_cache = False
    return model


def forward_of(model: Any, change: Change = dict) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda batch: model(**change(batch))["logits"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    path = tmp_path_factory.mktemp("packed") / "train.arrow"
    write_packed_rows(path, packed_rows(40, capacity=64))
    return Rows(path)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_holds(rows: Rows, attention: str) -> None:
    """With no mask and no cache, both kinds of attention keep the samples of a row apart."""
    assert prove_packing(forward_of(a_model(attention)), rows, Precision.FP32, attention) > 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_holds_in_half_precision(rows: Rows, attention: str) -> None:
    """What rounding to 16 bits does is within the tolerance."""
    model = a_model(attention).to(torch.bfloat16)
    assert prove_packing(forward_of(model), rows, Precision.BF16, attention) > 4


def _with_ones(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


def _with_cache(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {**batch, "use_cache": True}


def _without_positions(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"input_ids": batch["input_ids"]}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_with_ones, id="a mask of ones"),
        pytest.param(_with_cache, id="a cache"),
        pytest.param(_without_positions, id="positions that go on"),
    ],
)
def test_refuses_samples_that_see_each_other(rows: Rows, change: Change, precision: Precision) -> None:
    """Where samples see those before them packing is refused, with the attention's name and both losses."""
    model = a_model("sdpa").to({Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}[precision])
    with pytest.raises(StageError, match=r"'sdpa' the loss of sample . of row 1 of train\.arrow is") as caught:
        prove_packing(forward_of(model, change), rows, precision, "sdpa")
    assert (caught.value.code, caught.value.reason) == (ExitCode.GATE_FAILED, "PackingNotProven")
    assert "training.packing" in caught.value.hint


def test_refuses_an_attention_that_knows_no_borders(rows: Rows) -> None:
    """An attention of somebody else's that looks at no mask is found out, whatever it is called."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def borderless(module: Any, query: Any, key: Any, value: Any, _mask: Any, **options: Any) -> Any:
        return sdpa_attention_forward(module, query, key, value, None, **{**options, "is_causal": True})

    AttentionInterface.register("borderless", borderless)
    with pytest.raises(StageError, match="'borderless'"):
        prove_packing(forward_of(a_model("borderless")), rows, Precision.FP32, "borderless")


def test_small_leak_is_found_in_half_precision(rows: Rows) -> None:
    """A dependence on the sample before that rounding would hide shows when that sample is exchanged."""
    model = a_model("sdpa")

    def leaking(batch: dict[str, torch.Tensor]) -> Any:
        return model(**batch)["logits"] * (1 + 0.01 * batch["input_ids"][0, 0] / VOCABULARY)

    with pytest.raises(StageError, match="with another text before it"):
        prove_packing(leaking, rows, Precision.BF16, "sdpa")


def test_nothing_to_prove(tmp_path: Path) -> None:
    """Rows of one sample each need no proof, and the model is not asked."""
    write_packed_rows(tmp_path / "train.arrow", [([1, 2, 3], [-100, 2, 3], [3])])
    assert prove_packing(lambda _: 1 / 0, Rows(tmp_path / "train.arrow"), Precision.FP32, "sdpa") == 0


def test_loss_of_a_step_is_that_of_its_samples(rows: Rows) -> None:
    """A step's mean loss over packed rows is that over the same samples unpacked, padding and all."""
    model = a_model("sdpa")
    packed = [rows[number] for number in range(len(rows))]
    samples = []
    for row in packed:
        start = 0
        for length in row.samples if row.samples is not None else []:
            samples.append(Row(row.ids[start : start + length], row.labels[start : start + length]))
            start += length
    losses = []
    for batch in (collate(packed, packed=True), collate(samples, packed=False)):
        labels = batch.pop("labels")
        with torch.no_grad():
            losses.append(float(token_loss(model(**batch), labels, (labels != -100).sum())))
    assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE[Precision.FP32])
