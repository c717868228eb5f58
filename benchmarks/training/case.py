"""What all train: the shape of the model, the rows, and the settings, the same for everyone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.preparing.alpaca_like import write_base, write_rows

TOY: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""The quickstart's base, but for the vocabulary, which is the tokenizer's."""

HALF_BILLION: Mapping[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}
"""Qwen2.5-0.5B; the tokenizer uses the first tokens of its vocabulary only."""


@dataclass(frozen=True)
class Case:
    """A training that all do."""

    name: str
    shape: Mapping[str, Any]
    full: bool
    """Whether all weights are trained; else LoRA on all linear layers."""
    bf16: bool
    """Whether it computes in BF16; else in FP32."""
    steps: int
    warmup: int
    """First steps that count for no speed."""
    rate: float
    """Learning rate."""
    tolerance: float
    """By how much the losses of a step may differ (nats)."""
    micro: int = 2
    accumulation: int = 2
    seed: int = 42
    rank: int = 16
    alpha: int = 32
    rise: int = 5
    """Steps over which the learning rate rises; it falls by a cosine."""

    @property
    def rows(self) -> int:
        """Rows of one epoch, which is the whole training."""
        return self.steps * self.batch

    @property
    def batch(self) -> int:
        """Rows of a step."""
        return self.micro * self.accumulation


def write_inputs(case: Case, root: Path) -> None:
    """Write what `case` begins with: ``base/`` with random weights in BF16, and ``rows/rows.jsonl``, Alpaca-like."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    root.mkdir()
    write_base(root / "base")
    file = root / "base" / "config.json"
    written = json.loads(file.read_text())
    kept = {name: written[name] for name in ("vocab_size", "eos_token_id", "max_position_embeddings")}
    file.write_text(json.dumps({**kept, **case.shape}))
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(root / "base"))
    model.to(torch.bfloat16).save_pretrained(root / "base")
    (root / "rows").mkdir()
    write_rows(root / "rows" / "rows.jsonl", case.rows)
