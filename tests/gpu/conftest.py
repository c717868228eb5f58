"""What the tests on a GPU share: a model of a real shape with random weights, and rows to train it on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support.prepared import write_packed_rows, write_prepared, write_rows
from tunesmith_stages.volume import Volume

VOCABULARY = 151_936
TOKENS = 1024


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    """Say why nothing is tested where there is no GPU."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU here: these tests train on one, and prove nothing without")


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Return a volume with a base of the shape of Qwen2.5-0.5B, and 64 rows of 1,024 tokens, as they are and packed."""
    root = tmp_path_factory.mktemp("volume")
    write_shape(root / "base")
    ids = torch.randint(0, 1000, (64, TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    write_prepared(root / "prepared", train=1, vocabulary=VOCABULARY)
    write_rows(root / "prepared" / "train.arrow", [(row, row) for row in ids])
    write_prepared(root / "packed" / "prepared", train=1, vocabulary=VOCABULARY)
    packed = [(row, [-100, *row[1:512], -100, *row[513:]], [512, 512]) for row in ids]
    write_packed_rows(root / "packed" / "prepared" / "train.arrow", packed)
    (root / "packed" / "base").symlink_to(root / "base")
    return Volume(root)


def write_shape(folder: Path) -> None:
    """Write a Qwen2 of 0.5 billion random parameters in BF16."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(7)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=None,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
