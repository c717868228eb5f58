"""Proves that llama.cpp splits text into the tokens that training saw."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.llama_server import LlamaServer
from tunesmith_stages.program import StageError


def left_out(texts: Sequence[str], normalizer: str) -> list[str]:
    """Return the texts that can't be compared: llama.cpp normalises nothing, so decomposed accents differ under NFC."""
    return [text for text in texts if normalizer == "NFC" and not unicodedata.is_normalized("NFC", text)]


def require_same_tokens(server: LlamaServer, texts: Sequence[str], expected: Sequence[Sequence[int]]) -> None:
    """Compare the tokens of each text, without anything added around it.

    Raises:
        StageError: they differ; the first such text is shown with both lists.
    """
    for text, ids in zip(texts, expected, strict=True):
        found = server.tokenize(text)
        if found != list(ids):
            raise _mismatch("text", text, found, ids)


def require_same_prompts(server: LlamaServer, texts: Sequence[str], expected: Sequence[Sequence[int]]) -> None:
    """Compare the tokens of rendered conversations, with what the file says to add around them (BOS).

    Raises:
        StageError: the model would be given something else than in training.
    """
    for text, ids in zip(texts, expected, strict=True):
        found = server.tokenize(text, add_special=True)
        if found != list(ids):
            raise _mismatch("prompt", text, found, ids)


def _mismatch(what: str, text: str, found: Sequence[int], expected: Sequence[int]) -> StageError:
    pairs = zip(found, expected, strict=False)
    place = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(found), len(expected)))
    return StageError(
        ExitCode.GATE_FAILED,
        f"llama.cpp splits the {what} {text[:200]!r} into {_around(found, place)}, training into "
        f"{_around(expected, place)} (they part at token {place})",
        reason="TokenizerMismatch",
        hint="This tokenizer cannot be exported faithfully. Choose another base model.",
    )


def _around(ids: Sequence[int], place: int) -> str:
    first = max(0, place - 5)
    shown = ", ".join(str(token) for token in ids[first : place + 10])
    return f"[{'..., ' if first else ''}{shown}{', ...' if len(ids) > place + 10 else ''}] ({len(ids)})"
