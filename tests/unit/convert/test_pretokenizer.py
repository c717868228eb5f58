from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tunesmith_stages.convert.corpus import TEXTS
from tunesmith_stages.convert.pretokenizer import FAMILIES, PreTokenizerUnknownError, choose, pre_tokenizer_of, resolve

NO_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ENDS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"


def split(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """Return the form in which published tokenizers hold their rule."""
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def tokenizer_json(pre_tokenizer: Any, *, ignore_merges: bool = False, normalizer: Any = None, **model: Any) -> str:
    tokenizer = Tokenizer(models.BPE({"a": 0}, [], ignore_merges=ignore_merges, **model))
    tokenizer.decoder = decoders.ByteLevel()
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return str(tokenizer.to_str())


PUBLISHED = {
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    "smollm": (
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        False,
    ),
    "llama-bpe": (split(rf"{NO_CASE}|{WORD}|\p{{N}}{{1,3}}|{ENDS}"), True),
    "smaug-bpe": (split(rf"{NO_CASE}|{WORD}|\p{{N}}{{1,3}}|{ENDS}"), False),
    "qwen2": (split(rf"{NO_CASE}|{WORD}|\p{{N}}|{ENDS}"), False),
    "minicpm5": (split(r"\p{N}{1,3}", rf"{NO_CASE}|{WORD}|\p{{N}}+|{ENDS}"), True),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rules_are_recognised(name: str) -> None:
    """A vocabulary of one's own with the rule of a known family is given that family's name."""
    pre_tokenizer, ignore_merges = PUBLISHED[name]
    assert resolve(tokenizer_json(pre_tokenizer, ignore_merges=ignore_merges), TEXTS) == name


def test_nfc_is_allowed() -> None:
    """A tokenizer that normalises to NFC differs from llama.cpp on decomposed text only."""
    rule, _ = PUBLISHED["qwen2"]
    assert resolve(tokenizer_json(rule, normalizer=normalizers.NFC()), TEXTS) == "qwen2"


REFUSED = {
    "splits nowhere known": tokenizer_json(split(r"\p{L}+|\p{N}{1,2}|.")),
    "one character differs": tokenizer_json(split(rf"{NO_CASE}|{WORD}|\p{{N}}{{1,4}}|{ENDS}")),
    "no contractions": tokenizer_json(split(rf"{WORD}|\p{{N}}|{ENDS}")),
    "family's rule, other merging": tokenizer_json(split(rf"{NO_CASE}|{WORD}|\p{{N}}|{ENDS}"), ignore_merges=True),
    "prefix blank": tokenizer_json(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "not on bytes": tokenizer_json(pre_tokenizers.Whitespace()),
    "no rule": tokenizer_json(None),
    "lower case": tokenizer_json(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.Lowercase()),
    "byte fallback": tokenizer_json(pre_tokenizers.ByteLevel(add_prefix_space=False), byte_fallback=True),
    "marked words": tokenizer_json(pre_tokenizers.ByteLevel(add_prefix_space=False), end_of_word_suffix="</w>"),
    "no BPE": json.dumps({**json.loads(tokenizer_json(None)), "model": {"type": "Unigram", "vocab": []}}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_rules_are_refused(name: str) -> None:
    """Nothing is guessed: a rule that no family has is an error."""
    with pytest.raises(PreTokenizerUnknownError):
        resolve(REFUSED[name], TEXTS)


UNKNOWN = tokenizer_json(split(r"\p{L}+|\p{N}{1,2}|."))
QWEN2 = tokenizer_json(split(rf"{NO_CASE}|{WORD}|\p{{N}}|{ENDS}"))
CHOICES = {
    "the hash agrees": ("qwen2", QWEN2, ("qwen2", "hash")),
    "the hash knows a name that is not in the table": ("deepseek-r1-qwen", QWEN2, ("deepseek-r1-qwen", "hash")),
    "the hash is of another family": ("qwen35", QWEN2, ("qwen2", "splits")),
    "the hash knows what the table does not": ("chatglm-bpe", UNKNOWN, ("chatglm-bpe", "hash")),
    "only the hash says anything": ("qwen2", UNKNOWN, ("qwen2", "hash")),
    "no hash": (None, QWEN2, ("qwen2", "splits")),
}


@pytest.mark.parametrize("name", CHOICES)
def test_hash_stands_unless_the_splits_say_otherwise(name: str) -> None:
    """The converter's name is used unless it is that of a family which splits otherwise while another fits."""
    by_hash, tokenizer, expected = CHOICES[name]
    assert choose(by_hash, tokenizer, TEXTS) == expected


def test_neither_hash_nor_splits_is_an_error() -> None:
    """There is no default."""
    with pytest.raises(PreTokenizerUnknownError):
        choose(None, UNKNOWN, TEXTS)


@pytest.mark.parametrize(
    ("left", "right"),
    [pair for pair in itertools.combinations(FAMILIES, 2) if pair[0].ignore_merges == pair[1].ignore_merges],
    ids=lambda family: family.name,
)
def test_texts_tell_every_two_families_apart(left: Any, right: Any) -> None:
    """For every two families there is a text that they split differently, else the answer would be chance."""
    rules = [pre_tokenizer_of(family) for family in (left, right)]
    assert any(len({tuple(p for p, _ in rule.pre_tokenize_str(text)) for rule in rules}) == 2 for text in TEXTS)
