from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tunesmith_stages.rehearse.shrinking import alike, by_all_names, fewer_layers, shrunk

QWEN2_05B = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
QWEN2_05B |= {"num_key_value_heads": 2, "vocab_size": 151936}
QWEN2_7B = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
QWEN2_7B |= {"num_key_value_heads": 4, "vocab_size": 152064}
LLAMA3_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA3_8B |= {"num_key_value_heads": 8, "head_dim": 128}
PHI3 = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32}
PHI3 |= {"num_key_value_heads": 32}
GEMMA3_1B = {"hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4}
GEMMA3_1B |= {"num_key_value_heads": 1, "head_dim": 256}
GEMMA3_1B_LAYERS = (["sliding_attention"] * 5 + ["full_attention"]) * 4 + ["sliding_attention"] * 2
MIXTRAL = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
MIXTRAL |= {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2}
DEEPSEEK3 = {"hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61}
DEEPSEEK3 |= {"num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256, "n_group": 8}
DEEPSEEK3 |= {"num_experts_per_tok": 8, "first_k_dense_replace": 3, "head_dim": 64}

CASES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "rows that K-quants cannot have": (
        QWEN2_05B,
        {"hidden_size": 320, "num_attention_heads": 5, "num_key_value_heads": 1, "intermediate_size": 256},
    ),
    "rows that they can": (
        QWEN2_7B,
        {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 256},
    ),
    "a size of heads that is given": (
        LLAMA3_8B,
        {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 256},
    ),
    "heads of 96 numbers": (
        PHI3,
        {"hidden_size": 768, "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 256},
    ),
    "heads narrower than the model, layers of two kinds": (
        {**GEMMA3_1B, "layer_types": GEMMA3_1B_LAYERS},
        {"hidden_size": 288, "num_attention_heads": 1, "num_hidden_layers": 6, "layer_types": GEMMA3_1B_LAYERS[:6]},
    ),
    "experts": (MIXTRAL, {"num_local_experts": 4, "hidden_size": 256}),
    "experts in groups, behind dense layers": (DEEPSEEK3, {"n_routed_experts": 16, "num_hidden_layers": 4}),
    "every fourth layer of another kind": ({**LLAMA3_8B, "full_attention_interval": 4}, {"num_hidden_layers": 4}),
}


@pytest.mark.parametrize(("config", "expected"), CASES.values(), ids=CASES)
def test_small_model_of_the_same_kind(config: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """What quantization and conversion can stumble over stays: rows, kinds of layers, groups of heads, experts."""
    changes = {"num_hidden_layers": 2, **shrunk(config)}
    assert {name: changes.get(name, config.get(name)) for name in expected} == expected
    assert "vocab_size" not in changes
    assert "head_dim" not in changes


@pytest.mark.parametrize("config", [case[0] for case in CASES.values()], ids=CASES)
def test_groups_of_heads_divide_the_heads(config: Mapping[str, Any]) -> None:
    """There are as many heads in every group, and groups only where there were."""
    made = {**config, **shrunk(config)}
    heads, groups = made["num_attention_heads"], made["num_key_value_heads"]
    assert heads % groups == 0
    if config["num_attention_heads"] == config["num_key_value_heads"]:
        assert heads == groups


def test_small_model_stays_as_it_is() -> None:
    """A model that is small already is its own twin."""
    assert shrunk({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}) == {}


def test_fewer_layers_only() -> None:
    """Lists with an entry for each layer are cut with the layers; nothing else changes."""
    config = {**LLAMA3_8B, "no_rope_layers": [1] * 32, "eos_token_id": [1, 2]}
    assert fewer_layers(config) == {"num_hidden_layers": 2, "no_rope_layers": [1, 1]}


@pytest.mark.parametrize(
    ("size", "step", "expected"), [(4096, 128, 256), (896, 64, 320), (100, 32, 100), (1000, 1, 257)]
)
def test_sizes_alike(size: int, step: int, expected: int) -> None:
    """A small width is a multiple of 256 and of 32 exactly if the large one is."""
    assert alike(size, step) == expected


def test_older_names_of_a_file_do_not_contradict() -> None:
    """What a config.json calls otherwise than the class of the configuration is changed under both names."""
    written = {"n_embed": 1024, "num_attention_heads": 16, "n_layer": 24, "intermediate_size": 4096}
    changes = {"hidden_size": 256, "n_head": 4, "n_layer": 2, "moe_intermediate_size": 256}
    older = {"n_embed": 256, "num_attention_heads": 4}
    assert by_all_names(written, changes) == {**changes, **older}
    assert by_all_names({"num_experts": 128}, {"num_local_experts": 4})["num_experts"] == 4
