from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tunesmith_stages.prepare import words as words_module
from tunesmith_stages.prepare.words import Joined, Words, cuts_at_words

CORPUS = ["What is it? It is a shop in Lyon, isn't it?\nYes: number 12345.", "I'm Tunny.  Made by\tAcme!\n\nBye "] * 4
_LETTERS, _REST = r"|[^\r\n\p{L}\p{N}]?\p{L}+|", r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)" + _LETTERS + r"\p{N}{1,3}" + _REST
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)


def split_by(pattern: str) -> Any:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def a_tokenizer(pre_tokenizer: Any, *, trims: bool = False, normalizer: Any = None, **token: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trims)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    control = [AddedToken(text, special=True, normalized=False, **token) for text in ("<|im_start|>", "<|im_end|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def some_texts(count: int) -> list[str]:
    """Return texts of all that patterns tell apart, mixed at random."""
    rng = random.Random(3)  # noqa: S311 - not for secrets
    parts = ["shop", "It", "is", " ", " ", " ", "  ", "\n", "\n\n", "\t", "12345", "'s", "'", ".", "...", "-"]
    parts += ["<|im_start|>", "<|im_end|>", "<|im_", "|>", "é", "你好", "\u00a0", "\r\n", "e\u0301", "😀", "\u200b"]
    parts += ["_", "<", "\x1c"]
    return ["".join(rng.choices(parts, k=rng.randrange(0, 40))) for _ in range(count)]


@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize(
    "pre_tokenizer", [GPT2, split_by(LLAMA3), split_by(LLAMA3.replace("{1,3}", ""))], ids=["GPT-2", "Llama 3", "Qwen 2"]
)
def test_same_tokens_in_the_same_places(pre_tokenizer: Any, *, trims: bool) -> None:
    """Whatever stands in a text: ids and places are those that the tokenizer gives for the whole."""
    tokenizer = a_tokenizer(pre_tokenizer, trims=trims)
    assert cuts_at_words(tokenizer)
    words = Words(tokenizer)
    texts = some_texts(1200)
    for first in range(0, len(texts), 300):
        part = texts[first : first + 300]
        whole = tokenizer.encode_batch(part, add_special_tokens=False)
        for text, ours, theirs in zip(part, words.encode_batch(part), whole, strict=True):
            assert list(ours.ids) == theirs.ids, text
            assert ours.offsets == theirs.offsets, text
            for char in range(len(text) + 1):
                assert ours.char_to_token(char) == theirs.char_to_token(char), (text, char)
            for token in range(len(theirs.ids)):
                assert ours.token_to_chars(token) == theirs.token_to_chars(token)
    assert isinstance(words.encode_batch(["It is"])[0], Joined)  # comparing has found no difference


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the words of the data, and the tokens are the same without it."""
    monkeypatch.setattr(words_module, "_MOST", 10)
    monkeypatch.setattr(words_module, "_MOST_PLACES", 3)
    tokenizer = a_tokenizer(split_by(LLAMA3))
    words = Words(tokenizer)
    for text in some_texts(1000):
        (ours,), theirs = words.encode_batch([text]), tokenizer.encode(text, add_special_tokens=False)
        assert list(ours.ids) == theirs.ids
        assert [ours.char_to_token(char) for char in range(len(text))] == [
            theirs.char_to_token(char) for char in range(len(text))
        ]
    assert len(words._known) <= 10
    assert len(words._known_places) <= 3


@pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(a_tokenizer(split_by(r"\w+ \w+|.")), id="a pattern that is not known"),
        pytest.param(a_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=True)), id="a blank that is put in front"),
        pytest.param(a_tokenizer(pre_tokenizers.Metaspace()), id="no byte level"),
        pytest.param(a_tokenizer(GPT2, normalizer=normalizers.Prepend("_")), id="a normalizer"),
        pytest.param(a_tokenizer(GPT2, rstrip=True), id="a control token that takes blanks"),
    ],
)
def test_other_tokenizers_are_used_as_they_are(tokenizer: Tokenizer) -> None:
    """Where it is not known that words can be tokenized by themselves, texts are tokenized whole."""
    assert not cuts_at_words(tokenizer)
    (encoding,) = Words(tokenizer).encode_batch(["It is a shop"])
    assert encoding.ids == tokenizer.encode("It is a shop", add_special_tokens=False).ids
