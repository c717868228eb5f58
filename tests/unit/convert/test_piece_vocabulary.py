from __future__ import annotations

from typing import Any

import pytest

from tunesmith_stages.convert.piece_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    piece_vocabulary,
)

SETTINGS: dict[str, Any] = {
    "added_tokens": [
        {"id": 0, "content": "<unk>", "special": True},
        {"id": 7, "content": "<|end|>", "special": True},
        {"id": 8, "content": "▁▁", "special": False},
    ],
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    "pre_tokenizer": None,
    "model": {
        "type": "BPE",
        "byte_fallback": True,
        "unk_token": "<unk>",
        "vocab": {"<unk>": 0, "<0x0A>": 1, "a": 2, "b": 3, "ab": 4, "abab": 5, "ba": 6},
        "merges": [["a", "b"], ["ab", "ab"], ["b", "a"], ["a", "bab"]],
    },
}


def with_model(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS, "model": {**SETTINGS["model"], **changes}}


def test_pieces_get_the_scores_of_their_merges() -> None:
    """What is merged first scores highest; bytes, control tokens and words of one's own are told apart."""
    made = piece_vocabulary(SETTINGS, 10)
    assert made is not None
    assert made.tokens[4:] == [b"ab", b"abab", b"ba", b"<|end|>", b"  ", b"[PAD9]"]
    assert made.scores[4] > made.scores[5] > made.scores[6] > made.scores[2]
    assert made.types == [UNKNOWN, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, CONTROL, USER_DEFINED, UNUSED]


def test_merges_may_be_texts() -> None:
    """Files of older releases write a merge as one text; it means the same."""
    texts = [" ".join(merge) for merge in SETTINGS["model"]["merges"]]
    assert piece_vocabulary(with_model(merges=texts), 10) == piece_vocabulary(SETTINGS, 10)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param({"type": "Unigram"}, id="of the kind Unigram"),
        pytest.param({"byte_fallback": False}, id="of bytes"),
    ],
)
def test_other_kinds_are_left_to_the_converter(model: dict[str, Any]) -> None:
    """Of a tokenizer that works otherwise nothing is guessed."""
    assert piece_vocabulary(with_model(**model), 10) is None


BLANKS: dict[str, tuple[dict[str, Any], bool]] = {
    "replaced only": ({}, False),
    "prepended": ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}}, True),
    "by a pre-tokenizer": ({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"}}, True),
    "by one that never does": ({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never"}}, False),
}


@pytest.mark.parametrize("name", BLANKS)
def test_blank_before_a_text(name: str) -> None:
    """The blank that the tokenizer puts before a text, or doesn't, is asked for of llama.cpp too."""
    changes, expected = BLANKS[name]
    made = piece_vocabulary({**SETTINGS, **changes}, 10)
    assert made is not None
    assert made.begins_with_blank is expected
