"""The sizes of a model that estimates need, from its configuration and the heads of its weight files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.contract import ALL_LINEAR
from tunesmith_stages.rehearse.weights import Weights
from tunesmith_stages.train.adapted import is_expert, left_out

_EXPERT = ".experts."


@dataclass(frozen=True)
class ModelShape:
    """How large a decoder is. Widths are in numbers, not bytes."""

    parameters: int
    active: int
    """Parameters that take part in one token: fewer than all if there are experts."""
    largest: int
    """Parameters of the largest tensor."""
    layers: int
    hidden: int
    attention: int
    """Width of all heads together."""
    keys: int
    """Width of all heads of keys together; of values as many."""
    inner: int
    """Width of the feed-forward block, of all experts that a token goes through."""
    vocabulary: int


def shape_of(config: Mapping[str, Any], weights: Weights) -> ModelShape:
    """Return the sizes of the model."""
    text = {**config, **(config.get("text_config") or {})}
    tensors = weights.tensors.values()
    total = sum(info.elements for info in tensors)
    in_experts = sum(info.elements for info in tensors if _EXPERT in info.name)
    experts = _number(text, "num_experts", "num_local_experts", "n_routed_experts") or 1
    taken = _number(text, "num_experts_per_tok", "moe_topk") or experts
    hidden = _number(text, "hidden_size", "n_embd", "d_model")
    heads = _number(text, "num_attention_heads", "n_head") or 1
    size = _number(text, "head_dim") or hidden // heads
    inner = _number(text, "intermediate_size", "ffn_dim", "n_inner") or 4 * hidden
    if in_experts:
        inner = taken * (_number(text, "moe_intermediate_size") or inner)
    embedding = weights.embedding()
    return ModelShape(
        parameters=total,
        active=total - in_experts + in_experts * taken // experts,
        largest=max((info.elements for info in tensors), default=0),
        layers=_number(text, "num_hidden_layers", "n_layer", "num_layers"),
        hidden=hidden,
        attention=heads * size,
        keys=(_number(text, "num_key_value_heads") or heads) * size,
        inner=inner,
        vocabulary=embedding.shape[0] if embedding else _number(text, "vocab_size"),
    )


def adapter_parameters(weights: Weights, targets: Iterable[str], rank: int) -> int:
    """Return how many parameters an adapter of LoRA has: `rank` rows and columns for each matrix it adapts.

    Hu et al., 2021 (https://arxiv.org/abs/2106.09685), section 4.1.
    """
    wanted = tuple(targets)
    matrices = {info.name.removesuffix(".weight"): info for info in weights.tensors.values() if len(info.shape) == 2}
    out = left_out(matrices) if ALL_LINEAR in wanted else frozenset(filter(is_expert, matrices))
    shapes = [info.shape for name, info in matrices.items() if name not in out and _adapted(name, wanted)]
    return sum(rank * sum(shape) for shape in shapes)


def layer_matrices(weights: Weights) -> int:
    """Return how many parameters the matrices of the layers have: what QLoRA holds in 4 bits."""
    return sum(info.elements for info in weights.tensors.values() if len(info.shape) == 2 and _in_layers(info.name))


def last_layers(weights: Weights, layers: int, count: int) -> int:
    """Return how many parameters the last `count` of so many layers have."""
    names = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")
    found = ((names.search(info.name), info.elements) for info in weights.tensors.values())
    return sum(elements for match, elements in found if match and int(match[1]) >= layers - count)


def _in_layers(name: str) -> bool:
    return ".layers." in name or ".h." in name or ".blocks." in name


def _adapted(module: str, targets: tuple[str, ...]) -> bool:
    if ALL_LINEAR in targets:
        return _in_layers(module)
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _number(config: Mapping[str, Any], *names: str) -> int:
    return next((int(config[name]) for name in names if isinstance(config.get(name), int)), 0)
