from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith_stages.convert.read_back import adds_bos, context_length, require_as_trained
from tunesmith_stages.gguf_file import GgufFile, GgufTensor
from tunesmith_stages.program import StageError

BOS = 1
BOS_CASES: dict[str, tuple[int | None, bool, str, list[int], bool]] = {
    "no BOS anywhere": (None, False, "Hi", [5, 6], False),
    "template writes BOS, tokenizer adds one too": (BOS, True, "<s>Hi", [BOS, 5], False),
    "template writes BOS": (BOS, False, "<s>Hi", [BOS, 5], False),
    "training put BOS in front": (BOS, True, "Hi", [BOS, 5], True),
    "tokenizer adds BOS, training did without": (BOS, True, "Hi", [5, 6], False),
}


@pytest.mark.parametrize("name", BOS_CASES)
def test_serving_begins_as_training_began(name: str) -> None:
    """BOS is added by whoever serves only where the model was given one that the template does not write."""
    bos, tokenizer_adds, text, ids, expected = BOS_CASES[name]
    tokens = {"bosTokenId": bos, "addsBos": tokenizer_adds}
    assert adds_bos(tokens, [{"text": text, "ids": ids}], "<s>" if bos else "") is expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 4096, "n_ctx": 7}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        ({}, None),
    ],
)
def test_context_length_is_found_where_models_put_it(config: dict[str, Any], expected: int | None) -> None:
    """Architectures name the longest context differently, and nest it."""
    assert context_length(config) == expected


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 512,
    "tokenizer.chat_template": "{# guard #}{{ messages }}",
    "tokenizer.ggml.tokens": ["a", "b", "<|end|>", "<|eot|>"],
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.eot_token_id": 3,
    "tokenizer.ggml.add_bos_token": False,
}


def check(end: int = 3, **changes: Any) -> None:
    metadata = {**METADATA, **{key.replace("__", "."): value for key, value in changes.items()}}
    gguf = GgufFile(Path("model.gguf"), metadata, (GgufTensor("output.weight", (4, 4), 0),), 0, 64)
    require_as_trained(
        gguf,
        chat_template=METADATA["tokenizer.chat_template"],
        config={"max_position_embeddings": 512, "vocab_size": 4},
        tokens={"endOfTurn": {"id": end, "text": "<|eot|>"}, "eosTokenId": 2},
        add_bos=False,
        tensors=1,
    )


def test_file_that_says_what_training_said_passes() -> None:
    """Nothing differs: no error, whichever end token the turn ends with."""
    check()
    check(end=2)


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "template": ({"tokenizer__chat_template": "{{ messages }}"}, "chat_template"),
    "template gone": ({"tokenizer__chat_template": None}, "chat_template"),
    "eos": ({"tokenizer__ggml__eos_token_id": 1}, "EOS"),
    "a BOS that training did not have": ({"tokenizer__ggml__add_bos_token": True}, "add_bos_token"),
    "BOS left to chance": ({"tokenizer__ggml__add_bos_token": None}, "add_bos_token"),
    "vocabulary": ({"tokenizer__ggml__tokens": ["a", "b", "c"]}, "vocabulary"),
    "context": ({"llama__context_length": 2048}, "context length"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_each_difference_is_shown_with_both_values(name: str) -> None:
    """A file that says anything else than training is refused; the message holds what differs."""
    changes, message = DIFFERENT[name]
    with pytest.raises(StageError, match=message) as caught:
        check(**changes)
    assert caught.value.reason == "GgufDiffers"
    assert "in training" in caught.value.message


def test_turn_end_at_which_nobody_stops_is_refused() -> None:
    """A turn that ends with an ordinary token would never end when served."""
    with pytest.raises(StageError, match="would not stop") as caught:
        check(end=0)
    assert caught.value.reason == "EndOfTurnNotEog"
