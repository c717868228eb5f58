"""What `AllLinear` leaves out of a mixture of experts, by the names of modules. Pure.

Experts are left out: transformers fuses those of a layer into one tensor of three dimensions, which an adapter of two
small matrices cannot be merged into; and each would see few tokens. So is what chooses among them: trained on little
data, it soon sends all tokens to a few experts. Attention, dense layers and experts that every token goes through
("shared") are adapted.
"""

from __future__ import annotations

from collections.abc import Iterable

_EXPERTS = frozenset({"experts", "router"})
"""Parts of names that only mixtures of experts have."""
_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
"""Parts of the names of what chooses among experts, or weighs one."""


def left_out(modules: Iterable[str]) -> frozenset[str]:
    """Return which of a model's modules `AllLinear` leaves out, besides the output layer; none if it has no experts."""
    parts = {name: frozenset(name.split(".")) for name in modules}
    if not any(found & _EXPERTS for found in parts.values()):
        return frozenset()
    return frozenset(name for name, found in parts.items() if found & (_ROUTERS | _EXPERTS))


def is_expert(module: str) -> bool:
    """Say whether a module or tensor is one of the experts that are fused when the model is loaded."""
    return "experts" in module.split(".")
