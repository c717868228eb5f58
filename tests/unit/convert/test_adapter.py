from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tunesmith_stages.convert.adapter import Adapter
from tunesmith_stages.convert.safetensors_file import TensorInfo
from tunesmith_stages.program import StageError

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
FACTORS = {f"{PREFIX}.lora_A.weight": torch.ones(2, 6), f"{PREFIX}.lora_B.weight": torch.ones(4, 2)}
BASE = {
    name: TensorInfo(name, "F32", shape, 0, 4 * math.prod(shape))
    for name, shape in {
        "model.layers.0.self_attn.q_proj.weight": (4, 6),
        "model.layers.0.self_attn.k_proj.weight": (6, 4),
        "model.norm.weight": (6,),
    }.items()
}


def adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Adapter:
    settings = {"peft_type": "LORA", "lora_alpha": 8, "r": 2, "bias": "none", "init_lora_weights": True, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapter_model.safetensors")
    return Adapter(folder)


@pytest.mark.parametrize(
    ("config", "scale"), [({}, 4.0), ({"use_rslora": True}, 8 / math.sqrt(2)), ({"lora_alpha": 1}, 0.5)]
)
def test_scale_follows_alpha_and_rank(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    """The product is scaled by alpha over rank, or over its root where the adapter is rank-stabilised."""
    found = adapter(tmp_path, FACTORS, **config)
    delta = found.delta("model.layers.0.self_attn.q_proj.weight")
    assert delta.scale == pytest.approx(scale)
    assert delta.shape == (4, 6)
    found.require_fits(BASE)


def test_a_dora_of_transposed_layers_is_refused(tmp_path: Path) -> None:
    """Its lengths are those of columns there, which no block of rows knows."""
    tensors = {**FACTORS, f"{PREFIX}.lora_magnitude_vector": torch.ones(4)}
    with pytest.raises(StageError, match="fan_in_fan_out"):
        adapter(tmp_path, tensors, use_dora=True, fan_in_fan_out=True)
    with pytest.raises(StageError, match="as many as its rows"):
        adapter(tmp_path, {**FACTORS, f"{PREFIX}.lora_magnitude_vector": torch.ones(3)}, use_dora=True)


def test_transposed_layers_get_the_transposed_product(tmp_path: Path) -> None:
    """With `fan_in_fan_out` (GPT-2's layers) the base tensor has the shape (in, out)."""
    found = adapter(tmp_path, FACTORS, fan_in_fan_out=True)
    assert found.delta("model.layers.0.self_attn.q_proj.weight").shape == (6, 4)
    with pytest.raises(StageError, match="shapes"):
        found.require_fits(BASE)


REFUSED: dict[str, dict[str, Any]] = {
    "another method": {"peft_type": "LOHA"},
    "DoRA without its magnitudes": {"use_dora": True},
    "bias": {"bias": "lora_only"},
    "bias of the factors": {"lora_bias": True},
    "alpha per module": {"alpha_pattern": {"q_proj": 4}},
    "whole modules": {"modules_to_save": ["lm_head"]},
    "bare parameters": {"target_parameters": ["experts.gate_up_proj"]},
    "trained token rows": {"trainable_token_indices": [1, 2]},
    "repeated layers": {"layer_replication": [[0, 2], [1, 3]]},
    "changed base": {"init_lora_weights": "pissa"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """A feature that the merge does not know is named, never ignored."""
    (field,) = REFUSED[name]
    with pytest.raises(StageError, match=field) as caught:
        adapter(tmp_path, FACTORS, **REFUSED[name])
    assert caught.value.reason == "AdapterNotMergeable"
    assert "targetModules" in caught.value.hint


FOREIGN = {
    "magnitudes": {**FACTORS, f"{PREFIX}.lora_magnitude_vector": torch.ones(4)},
    "embedding factors": {**FACTORS, "base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(2, 4)},
    "a whole layer": {**FACTORS, "base_model.model.lm_head.weight": torch.ones(4, 4)},
    "half a pair": {f"{PREFIX}.lora_A.weight": torch.ones(2, 6)},
    "convolution": {**FACTORS, f"{PREFIX}2.lora_A.weight": torch.ones(2, 6, 1)},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_tensors_that_are_no_factors_are_refused(tmp_path: Path, name: str) -> None:
    """Whatever else lies in the adapter's file would be lost by the merge, so it is an error."""
    with pytest.raises(StageError, match="no pair of factors"):
        adapter(tmp_path, FOREIGN[name])


UNFIT = {
    "no counterpart": (f"{PREFIX}x", (2, 6), (4, 2), r"q_projx\.weight"),
    "another width": (PREFIX, (2, 5), (4, 2), "shapes"),
    "another height": (PREFIX, (2, 6), (5, 2), "shapes"),
    "ranks differ": (PREFIX, (2, 6), (4, 3), "shapes"),
    "transposed": (PREFIX, (2, 4), (6, 2), "shapes"),
    "not a matrix in the base": ("base_model.model.model.norm", (2, 6), (6, 2), "shapes"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_adapter_of_another_base_is_refused(tmp_path: Path, name: str) -> None:
    """An adapter that does not fit the base is refused before anything is written."""
    module, a, b, message = UNFIT[name]
    factors = {f"{module}.lora_A.weight": torch.ones(a), f"{module}.lora_B.weight": torch.ones(b)}
    with pytest.raises(StageError, match=message) as caught:
        adapter(tmp_path, factors).require_fits(BASE)
    assert caught.value.reason == "AdapterDoesNotFit"


def test_empty_adapter_is_refused(tmp_path: Path) -> None:
    """If nothing would be merged, the result would be the base: an error."""
    with pytest.raises(StageError, match="nothing to merge") as caught:
        adapter(tmp_path, {}).require_fits(BASE)
    assert caught.value.reason == "NoAdapter"
