"""The vocabulary of a SentencePiece tokenizer (of the kind BPE), read from ``tokenizer.json``.

llama.cpp's converter reads such a vocabulary from ``tokenizer.model`` alone: what else it does gives every piece the
same score, and text comes apart at random. But many models have no such file, as transformers saves none, and in some
it is of another kind or has aged. ``tokenizer.json`` holds the same: a score says how early a piece is merged, and so
does the place of its merge in the list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens in a GGUF (``enum llama_token_type`` in llama.h)."""

_BLANK = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class PieceVocabulary:
    """Texts, scores and types of all tokens, by their id."""

    tokens: list[bytes]
    scores: list[float]
    types: list[int]
    begins_with_blank: bool
    """Whether a blank is put before a text."""


def piece_vocabulary(settings: Mapping[str, Any], size: int) -> PieceVocabulary | None:
    """Return the vocabulary that the content of a ``tokenizer.json`` describes; None if it is of another kind.

    Args:
        settings: the file's content.
        size: how many tokens the model has; what has no text becomes unused.
    """
    model = settings.get("model") or {}
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        return None
    size = max([size, *(token + 1 for token in model["vocab"].values())])
    tokens = [f"[PAD{token}]".encode() for token in range(size)]
    scores, types = [-10000.0] * size, [UNUSED] * size
    rank = _ranks(model["merges"])
    for text, token in model["vocab"].items():
        tokens[token], scores[token] = text.encode(), -float(rank.get(text, len(rank)))
        types[token] = BYTE if _BYTE.fullmatch(text) else UNKNOWN if text == model.get("unk_token") else NORMAL
    for entry in settings.get("added_tokens", []):
        token, text = entry["id"], entry["content"]
        if token < size:
            kind = CONTROL if entry.get("special") else USER_DEFINED
            text = text if kind == CONTROL else text.replace(_BLANK, " ")
            tokens[token], scores[token] = text.encode(), -1000.0
            types[token] = UNKNOWN if types[token] == UNKNOWN else kind
    return PieceVocabulary(tokens, scores, types, _begins_with_blank(settings))


def _ranks(merges: list[Any]) -> dict[str, int]:
    """Return, for each piece that a merge makes, the place of the first that does."""
    ranks: dict[str, int] = {}
    for place, merge in enumerate(merges):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), place)
    return ranks


def _begins_with_blank(settings: Mapping[str, Any]) -> bool:
    """Say whether the normaliser or the pre-tokenizer puts a blank before a text."""
    steps = [step for part in ("normalizer", "pre_tokenizer") for step in _steps(settings.get(part))]
    return any(
        (step["type"] == "Prepend" and step.get("prepend") == _BLANK)
        or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )


def _steps(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers")
    return [step for one in inner for step in _steps(one)] if inner else [part]
