from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tunesmith_stages.convert import merge as merge_module
from tunesmith_stages.convert.adapter import Adapter
from tunesmith_stages.convert.merge import merge
from tunesmith_stages.program import StageError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def tiny_llama(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).to(dtype)


def tiny_gpt2(dtype: torch.dtype) -> GPT2LMHeadModel:
    torch.manual_seed(3)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)).to(dtype)


def with_adapter(model: Any, folder: Path, **config: Any) -> PeftModel:
    """Save `model` as the base in several files, and a random adapter for it."""
    model.save_pretrained(folder / "base", max_shard_size="20KB")
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **config))
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    peft.save_pretrained(folder / "trained")
    return peft


def merged_by_us(folder: Path) -> dict[str, torch.Tensor]:
    out = folder / "merged"
    out.mkdir()
    merge(folder / "base", Adapter(folder / "trained"), out, lambda _: None)
    return {name: tensor for path in out.glob("*.safetensors") for name, tensor in load_file(path).items()}


CASES: dict[str, dict[str, Any]] = {
    "all linear layers": {"target_modules": "all-linear"},
    "two projections": {"target_modules": ["q_proj", "v_proj"]},
    "rank-stabilised": {"target_modules": "all-linear", "use_rslora": True},
    "rank of its own": {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 2}},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_merge_is_the_exact_sum_rounded_once(tmp_path: Path, case: str, dtype: str) -> None:
    """Every merged weight is within half a step of the sum in double precision, up to float32's own rounding."""
    model = with_adapter(tiny_llama(DTYPES[dtype]), tmp_path, **CASES[case])
    exact = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): parameter.detach().double()
        for name, parameter in model.named_parameters()
        if "lora_" not in name
    }
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            a, b = module.lora_A["default"].weight.double(), module.lora_B["default"].weight.double()
            exact[f"{name.replace('base_model.model.', '')}.weight"] += module.scaling["default"] * (b @ a)
    ours = merged_by_us(tmp_path)
    assert ours.keys() == exact.keys()
    computing = 4 * torch.finfo(torch.float32).eps * 0.5  # the largest weight or sum is below 0.5
    for name, tensor in ours.items():
        wanted = exact[name].detach()
        assert wanted.abs().max() < 0.5 or "norm" in name
        half_step = torch.finfo(DTYPES[dtype]).eps / 2 * wanted.abs().clamp(min=torch.finfo(DTYPES[dtype]).tiny)
        assert ((tensor.double() - wanted).abs() <= half_step * 1.01 + computing).all(), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_merge_agrees_with_peft(tmp_path: Path, dtype: str) -> None:
    """PEFT's own merge, which rounds twice, gives the same within its second rounding; most weights to the bit."""
    model = with_adapter(tiny_llama(DTYPES[dtype]), tmp_path, target_modules="all-linear")
    base = {
        name: tensor for path in (tmp_path / "base").glob("*.safetensors") for name, tensor in load_file(path).items()
    }
    ours, theirs = merged_by_us(tmp_path), model.merge_and_unload().state_dict()
    step = torch.finfo(DTYPES[dtype]).eps
    for name, tensor in theirs.items():
        largest = torch.maximum(base[name].abs(), torch.maximum(tensor.abs(), (tensor - base[name]).abs())).float()
        assert ((ours[name].float() - tensor.float()).abs() <= step * largest).all(), name
        assert (ours[name] == tensor).double().mean() > 0.6, name
    changed = [name for name in base if not torch.equal(base[name], ours[name])]
    assert len(changed) == 2 * 7


def test_transposed_layers_are_merged_as_peft_merges_them(tmp_path: Path) -> None:
    """GPT-2's layers keep their weights as (in, out)."""
    model = with_adapter(tiny_gpt2(torch.float32), tmp_path, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    ours, theirs = merged_by_us(tmp_path), model.merge_and_unload().state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-7)


def test_rows_of_a_dora_have_the_lengths_that_were_learnt(tmp_path: Path) -> None:
    """Directions come from the sum, lengths from the magnitudes, as PEFT merges them."""
    model = with_adapter(tiny_llama(torch.float32), tmp_path, target_modules="all-linear", use_dora=True)
    lengths = load_file(tmp_path / "trained" / "adapter_model.safetensors")
    ours, theirs = merged_by_us(tmp_path), model.merge_and_unload().state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)
    name = "model.layers.1.mlp.up_proj"
    learnt = lengths[f"base_model.model.{name}.lora_magnitude_vector"]
    torch.testing.assert_close(ours[f"{name}.weight"].norm(dim=1), learnt.abs(), rtol=1e-5, atol=1e-6)


def test_small_blocks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows are worked on at once does not show in the result."""
    with_adapter(tiny_llama(torch.bfloat16), tmp_path, target_modules="all-linear")
    whole = merged_by_us(tmp_path)
    (tmp_path / "merged").rename(tmp_path / "whole")
    monkeypatch.setattr(merge_module, "_BLOCK", 200)
    for name, tensor in merged_by_us(tmp_path).items():
        torch.testing.assert_close(tensor, whole[name], rtol=2**-8, atol=1e-7)
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert (tmp_path / "merged" / path.name).stat().st_size == path.stat().st_size


def test_files_are_laid_out_as_the_base_is(tmp_path: Path) -> None:
    """The same tensors lie in the same files, the index is there, and every byte was counted."""
    with_adapter(tiny_llama(torch.bfloat16), tmp_path, target_modules="all-linear")
    out = tmp_path / "merged"
    out.mkdir()
    counted: list[int] = []
    assert merge(tmp_path / "base", Adapter(tmp_path / "trained"), out, counted.append) == 14
    index = json.loads((tmp_path / "base" / "model.safetensors.index.json").read_text())
    assert json.loads((out / "model.safetensors.index.json").read_text()) == index
    assert len(set(index["weight_map"].values())) >= 2
    for name, file in index["weight_map"].items():
        assert name in load_file(out / file)
    assert sum(counted) == index["metadata"]["total_size"]


def test_diverged_adapter_is_refused(tmp_path: Path) -> None:
    """A merged weight that is infinite or no number ends the stage, and names the weight."""
    with_adapter(tiny_llama(torch.float16), tmp_path, target_modules=["q_proj"])
    path = tmp_path / "trained" / "adapter_model.safetensors"
    tensors = load_file(path)
    for value in (np.inf, np.nan, 1e6):
        first = next(name for name in sorted(tensors) if "lora_B" in name)
        save_file({**tensors, first: torch.full_like(tensors[first], value)}, path)
        out = tmp_path / f"merged-{value}"
        out.mkdir()
        with pytest.raises(StageError, match=r"layers\.0\.self_attn\.q_proj\.weight") as caught:
            merge(tmp_path / "base", Adapter(tmp_path / "trained"), out, lambda _: None)
        assert caught.value.reason == "WeightsNotFinite"


def test_index_that_disagrees_with_its_files_is_refused(tmp_path: Path) -> None:
    """A shard that holds other tensors than the index says means that the base is not whole."""
    with_adapter(tiny_llama(torch.float32), tmp_path, target_modules=["q_proj"])
    path = tmp_path / "base" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = index["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(index))
    (tmp_path / "merged").mkdir()
    with pytest.raises(StageError, match=r"layers\.9"):
        merge(tmp_path / "base", Adapter(tmp_path / "trained"), tmp_path / "merged", lambda _: None)
