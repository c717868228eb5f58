r"""Finds the name under which llama.cpp knows a tokenizer's way of splitting text, for vocabularies that it never saw.

llama.cpp's converter recognises a byte-level BPE tokenizer by a hash over token ids, so any vocabulary trained by
somebody else fails, although the rule that splits text into words (the pre-tokenizer) is nearly always one of a few.
Here the tokenizer's own splits of many texts are compared with the splits of each known family. Exactly one family
must agree; a wrong guess would cost quality silently, so there is no default. The hash can also be wrong: the ids of
its one text may be the same under two rules. So a name that it gives is held against the splits too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKED_WORDS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_SIGN_AND_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"


class PreTokenizerUnknownError(Exception):
    """No family of llama.cpp splits text as the tokenizer does; the text says why."""


@dataclass(frozen=True)
class Family:
    """A pre-tokenizer that llama.cpp has."""

    name: str
    """What ``tokenizer.ggml.pre`` calls it."""
    patterns: tuple[str, ...]
    """Applied one after the other, each to the pieces that the one before left."""
    ignore_merges: bool = False
    """Whether a piece that is in the vocabulary is taken whole, whatever the merges say."""


FAMILIES = (
    Family("gpt-2", (_GPT2,)),
    Family("smollm", (r"\p{N}", _GPT2)),
    Family("llama-bpe", (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}",), ignore_merges=True),
    Family("smaug-bpe", (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}",)),
    Family("qwen2", (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_SIGNS}|{_BLANKS}",)),
    Family(
        "qwen35",
        (rf"{_CONTRACTIONS}|{_MARKED_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BLANKS}",),
    ),
    Family("seed-coder", (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_BLANKS}",)),
    Family(
        "minicpm5",
        (r"\p{N}{1,3}", rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}+|{_SIGNS}|{_BLANKS}"),
        ignore_merges=True,
    ),
    Family(
        "deepseek-v3",
        (
            r"\p{N}{1,3}",
            "[一-龥\u3040-ゟ゠-ヿ]+",
            rf"{_SIGN_AND_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BLANKS}",
        ),
    ),
)
"""The families that can be told apart, one name for each. Source: ``llm_tokenizer_bpe`` and the list of names in
``llama_vocab::impl::load`` of llama.cpp, src/llama-vocab.cpp, of the release in :mod:`tunesmith_stages.tools`."""


def choose(by_hash: str | None, tokenizer_json: str, texts: Iterable[str]) -> tuple[str, str]:
    """Return the name to write and how it was found, ``hash`` or ``splits``.

    The converter's name stands unless it is that of a family in the table that splits otherwise, and another family
    splits exactly as the tokenizer does.

    Args:
        by_hash: the converter's name, None if it has none.
        tokenizer_json: the content of ``tokenizer.json``.
        texts: texts on which every two families differ.

    Raises:
        PreTokenizerUnknownError: there is no name by hash, and :func:`resolve` finds none.
    """
    try:
        name = resolve(tokenizer_json, texts)
    except PreTokenizerUnknownError:
        if by_hash is None:
            raise
        return by_hash, "hash"
    if by_hash is None or (name != by_hash and any(family.name == by_hash for family in FAMILIES)):
        return name, "splits"
    return by_hash, "hash"


def resolve(tokenizer_json: str, texts: Iterable[str]) -> str:
    """Return the name of the one family that splits `texts` exactly as the tokenizer does.

    Args:
        tokenizer_json: the content of ``tokenizer.json``.
        texts: texts on which every two families differ.

    Raises:
        PreTokenizerUnknownError: the tokenizer is no byte-level BPE that llama.cpp could repeat, or none or several
            families agree with it.
    """
    settings = json.loads(tokenizer_json)
    _require_byte_level_bpe(settings)
    ignore_merges = bool(settings["model"].get("ignore_merges"))
    own = Tokenizer.from_str(tokenizer_json).pre_tokenizer
    candidates = [family for family in FAMILIES if family.ignore_merges == ignore_merges]
    for text in texts:
        pieces = _pieces(own, text)
        candidates = [family for family in candidates if _pieces(pre_tokenizer_of(family), text) == pieces]
    names = [family.name for family in candidates]
    if len(names) != 1:
        known = ", ".join(family.name for family in FAMILIES)
        found = f"several do: {', '.join(names)}" if names else f"none of {known} does (ignore_merges={ignore_merges})"
        raise PreTokenizerUnknownError(f"exactly one known family must split text as the tokenizer does, but {found}")
    return names[0]


def pre_tokenizer_of(family: Family) -> Any:
    """Return the family's rule as a pre-tokenizer of the `tokenizers` library, its pieces in the byte alphabet."""
    splits = [Split(Regex(pattern), "isolated") for pattern in family.patterns]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


def _pieces(pre_tokenizer: Any, text: str) -> list[str]:
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]


def _require_byte_level_bpe(settings: dict[str, Any]) -> None:
    model = settings.get("model", {})
    normalizer = (settings.get("normalizer") or {}).get("type", "NFC")
    decoder = (settings.get("decoder") or {}).get("type")
    for wrong, why in (
        (model.get("type") != "BPE", f"its model is {model.get('type')}, not BPE"),
        (model.get("byte_fallback"), "it falls back to bytes instead of working on bytes"),
        (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"), "it marks parts of words"),
        (settings.get("pre_tokenizer") is None, "it has no pre-tokenizer"),
        (decoder != "ByteLevel", f"its decoder is {decoder}, not ByteLevel"),
        (normalizer != "NFC", f"it normalises text by {normalizer}; only NFC or nothing can be repeated"),
    ):
        if wrong:
            raise PreTokenizerUnknownError(f"the tokenizer is no byte-level BPE as llama.cpp has it: {why}")
