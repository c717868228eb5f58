"""Makes a small model's configuration out of a large one's: the same architecture, so few and small matrices. Pure.

What stays is what the way out can stumble over: the vocabulary, the kinds of layers, grouped heads, the size of a head
(rotary scalings are lists of that length), tied embeddings, experts, context length. What shrinks is how often and how
wide. llama-quantize needs rows of a multiple of 256 for most types and of 32 for the rest, and silently takes another
type where they are not (``tensor_type_fallback`` of llama.cpp's src/llama-quant.cpp), so a width that is such a
multiple becomes a small one that is too, and one that is not does not become one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LAYERS = 2
"""So many layers are kept, or as many as it takes for one of each kind."""

_NAMES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model", "n_embed"),
    "heads": ("num_attention_heads", "n_head"),
    "groups": ("num_key_value_heads",),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "experts_per_token": ("num_experts_per_tok", "moe_topk"),
    "inner": (
        "intermediate_size",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "intermediate_size_mlp",
        "ffn_dim",
        "n_inner",
    ),
}
"""What architectures call the same thing in ``config.json``."""
_PERIODS = ("full_attention_interval", "sliding_window_pattern", "attn_layer_period", "layer_group_size")
"""Every so many layers one is of another kind."""
_MOST_KINDS = 4
_BLOCK = 256


def fewer_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes in a configuration (with its defaults) if only the number of layers is cut."""
    field = _first(config, "layers")
    if field is None:
        return {}
    count = _layers(config, config[field])
    lists = {
        name: value[:count] for name, value in config.items() if isinstance(value, list) and len(value) == config[field]
    }
    return {field: count, **lists} if count < config[field] else {}


def shrunk(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes in a configuration (with its defaults) to make it that of a small model of its kind."""
    changes = fewer_layers(config)
    changes |= _narrower(config)
    for field in _NAMES["inner"]:
        if isinstance(config.get(field), int):
            changes[field] = alike(config[field], 32 if config[field] % 32 == 0 else 1)
    changes |= _fewer_experts(config)
    return {name: value for name, value in changes.items() if value != config.get(name)}


def by_all_names(written: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `changes`, also under the other names that a ``config.json`` has for the same.

    The changes have the names that the configuration's class goes by; a file may have older ones, which would
    contradict them: `num_experts` for `num_local_experts`, `num_attention_heads` for `n_head`.
    """
    groups = [names for what, names in _NAMES.items() if what != "inner"]  # those are different things
    others = {other: names for names in groups for other in names if other in written}
    found = {other: next((changes[name] for name in names if name in changes), None) for other, names in others.items()}
    return {**{name: value for name, value in found.items() if value is not None}, **changes}


def alike(size: int, step: int) -> int:
    """Return the smallest multiple of `step` from 256 on that is a multiple of 256 or 32 exactly if `size` is."""
    for candidate in range(step * math.ceil(_BLOCK / step), size, step):
        if (candidate % _BLOCK == 0, candidate % 32 == 0) == (size % _BLOCK == 0, size % 32 == 0):
            return candidate
    return size


def _first(config: Mapping[str, Any], what: str) -> str | None:
    return next((name for name in _NAMES[what] if isinstance(config.get(name), int)), None)


def _layers(config: Mapping[str, Any], total: int) -> int:
    needed = LAYERS
    for value in config.values():
        if isinstance(value, list) and len(value) == total and len(set(map(str, value))) <= _MOST_KINDS:
            needed = max(needed, *(1 + value.index(kind) for kind in value))
    needed = max(needed, *(config[name] for name in _PERIODS if isinstance(config.get(name), int)), 0)
    dense = config.get("first_k_dense_replace")
    return int(min(total, max(needed, dense + 1) if isinstance(dense, int) else needed))


def _narrower(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return fewer heads of the same size, and a width that goes with them."""
    width, heads, groups = (_first(config, what) for what in ("width", "heads", "groups"))
    if width is None or heads is None:
        return {}
    size = config.get("head_dim") or config[width] // config[heads]
    if size * config[heads] == config[width]:
        made = alike(config[width], size)
        count = made // size
    else:  # the heads together are wider or narrower than the model
        made = alike(config[width], 32 if config[width] % 32 == 0 else 1)
        count = alike(size * config[heads], size) // size
    changes = {width: made, heads: count}
    if groups is not None:
        changes[groups] = _groups(config[heads], config[groups], count)
    return changes


def _groups(heads: int, groups: int, fewer_heads: int) -> int:
    """Return how many groups of keys and values fewer heads should have: one for each head only if it was so."""
    if groups == heads:
        return fewer_heads
    divisors = [count for count in range(1, fewer_heads) if fewer_heads % count == 0 and count <= groups]
    return min(divisors, key=lambda count: abs(fewer_heads / count - heads / groups), default=1)


def _fewer_experts(config: Mapping[str, Any]) -> dict[str, Any]:
    experts, taken = _first(config, "experts"), _first(config, "experts_per_token")
    if experts is None:
        return {}
    chosen = config[taken] if taken else 1
    groups = config.get("n_group") or 1
    wanted = max(4, 2 * chosen, 2 * groups)
    wanted += -wanted % groups
    return {experts: min(config[experts], wanted)}
