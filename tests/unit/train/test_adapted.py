from __future__ import annotations

import pytest

from tunesmith_stages.train.adapted import left_out

LAYER = "model.layers.0"
CASES = {
    "a dense model": (["self_attn.q_proj", "mlp.gate_proj", "mlp.gate"], []),
    "experts and their router": (["self_attn.q_proj", "mlp.gate", "mlp.experts"], ["mlp.gate", "mlp.experts"]),
    "experts one by one": (["self_attn.o_proj", "mlp.experts.3.w1"], ["mlp.experts.3.w1"]),
    "a router in parts": (
        ["block_sparse_moe.router.layer", "block_sparse_moe.input_linear", "self_attn.q_proj"],
        ["block_sparse_moe.router.layer"],
    ),
    "a shared expert stays": (
        ["mlp.experts", "mlp.shared_expert.gate_proj", "mlp.shared_expert_gate"],
        ["mlp.experts", "mlp.shared_expert_gate"],
    ),
}


@pytest.mark.parametrize(("modules", "expected"), CASES.values(), ids=CASES)
def test_what_all_linear_leaves_out(modules: list[str], expected: list[str]) -> None:
    """Of a mixture of experts, the experts and what chooses among them; of any other model nothing."""
    found = left_out(f"{LAYER}.{name}" for name in modules)
    assert found == {f"{LAYER}.{name}" for name in expected}
