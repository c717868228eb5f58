"""Models of real shapes with random weights, and rows for them: what a GPU is tried with, without any download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support.prepared import write_packed_rows, write_prepared, write_rows


@dataclass(frozen=True)
class Shape:
    """A model as its card describes it."""

    family: str
    """``qwen2`` or ``llama``."""
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    keys: int
    tied: bool

    @property
    def in_layers(self) -> int:
        """Parameters of the layers: attention, feed-forward part and norms, without biases."""
        size = self.hidden // self.heads
        attention = self.hidden * size * 2 * (self.heads + self.keys)
        return self.layers * (attention + 3 * self.hidden * self.inner + 2 * self.hidden)

    @property
    def computed(self) -> int:
        """Parameters that each token is multiplied with: those of the layers and the output layer."""
        return self.in_layers + self.vocabulary * self.hidden


SHAPES = {
    "0.5B": Shape("qwen2", 151_936, 896, 4864, 24, 14, 2, tied=True),
    "1.5B": Shape("qwen2", 151_936, 1536, 8960, 28, 12, 2, tied=True),
    "8B, 4 layers": Shape("llama", 128_256, 4096, 14_336, 4, 32, 8, tied=False),
    "8B": Shape("llama", 128_256, 4096, 14_336, 32, 32, 8, tied=False),
}
"""Qwen2.5-0.5B, Qwen2.5-1.5B, Llama-3-8B; and as much of the last as a GPU of 24 GB trains whole."""


def write_shape(folder: Path, shape: Shape) -> None:
    """Write a model of the shape in BF16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(7)
    config = AutoConfig.for_model(
        shape.family,
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.keys,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=None,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="4GB")


def random_rows(count: int, tokens: int) -> list[tuple[list[int], list[int]]]:
    """Return ids and labels of rows of half to all of `tokens`; the second half of each is learnt."""
    import torch

    generator = torch.Generator().manual_seed(1)
    rows = []
    for _ in range(count):
        length = int(torch.randint(tokens // 2, tokens + 1, (1,), generator=generator))
        ids = torch.randint(0, 1000, (length,), generator=generator).tolist()
        rows.append((ids, [-100] * (length // 2) + ids[length // 2 :]))
    return rows


def write_volume(root: Path, shape: Shape, *, rows: int = 64, tokens: int = 1024) -> None:
    """Write ``base`` and ``prepared``; and both below ``packed``, where rows are pairs of samples."""
    write_shape(root / "base", shape)
    given = random_rows(rows, tokens)
    for folder in (root / "prepared", root / "packed" / "prepared"):
        write_prepared(folder, train=1, vocabulary=shape.vocabulary)
    write_rows(root / "prepared" / "train.arrow", given)
    pairs = zip(given[::2], given[1::2], strict=True)
    packed = [(one + two, [*of_one, -100, *of_two[1:]], [len(one), len(two)]) for (one, of_one), (two, of_two) in pairs]
    write_packed_rows(root / "packed" / "prepared" / "train.arrow", packed)
    (root / "packed" / "base").symlink_to(root / "base")
