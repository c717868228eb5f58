"""Checks that the finished GGUF says what training says: template, tokens, context length, tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.gguf_file import GgufFile
from tunesmith_stages.program import StageError

_CONTEXT_KEYS = ("max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length")
"""Where a config.json says how long a context may be, in the order in which the converter looks."""

_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def adds_bos(tokens: Mapping[str, Any], prompts: Sequence[Mapping[str, Any]], bos_text: str) -> bool:
    """Say whether serving must put a BOS before a rendered conversation to give the model what training gave it.

    A template that writes BOS itself needs none added: servers would add a second one, or strip the first from what
    they render. Without it, BOS is added if the prompts of training begin with one.

    Args:
        tokens: ``tokens.json``.
        prompts: the prompts of ``probes.json``.
        bos_text: how BOS is written; "" if there is none.
    """
    bos = tokens["bosTokenId"]
    if bos is None or not prompts:
        return bool(tokens["addsBos"]) and bos is not None
    written = bool(bos_text) and prompts[0]["text"].startswith(bos_text)
    return prompts[0]["ids"][:1] == [bos] and not written


def context_length(config: Mapping[str, Any]) -> int | None:
    """Return the longest context that a ``config.json`` allows, in tokens; None if it does not say."""
    merged = {**config, **(config.get("text_config") or {})}
    return next((int(merged[key]) for key in _CONTEXT_KEYS if merged.get(key) is not None), None)


def end_tokens(gguf: GgufFile) -> set[int]:
    """Return the tokens at which whoever serves the file stops."""
    found = (gguf.metadata.get(f"tokenizer.ggml.{key}") for key in _END_KEYS)
    return {int(token) for token in found if token is not None}


def require_as_trained(
    gguf: GgufFile,
    *,
    chat_template: str,
    config: Mapping[str, Any],
    tokens: Mapping[str, Any],
    add_bos: bool,
    tensors: int,
) -> None:
    """Compare the file with what it should say.

    Args:
        gguf: the file that was written.
        chat_template: the guarded template.
        config: ``config.json`` of the model.
        tokens: ``tokens.json``.
        add_bos: see :func:`adds_bos`.
        tensors: how many tensors the converter says that it wrote.

    Raises:
        StageError: something differs; both values are named.
    """
    end = tokens["endOfTurn"]
    if end["id"] not in end_tokens(gguf):
        raise StageError(
            ExitCode.GATE_FAILED,
            f"turns end with token {end['id']} ({end['text']!r}), which is no control token, so the model would not "
            f"stop there: the file's end tokens are {sorted(end_tokens(gguf))}",
            reason="EndOfTurnNotEog",
            hint="Give `model.chatTemplate` a template that ends the assistant's turn with a control token.",
        )
    ggml = "tokenizer.ggml"
    words = gguf.metadata.get(f"{ggml}.tokens") or []
    vocab = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size") or len(words)
    context = context_length(config)
    for what, found, expected in (
        ("tensors", len(gguf.tensors), tensors),
        ("`tokenizer.chat_template`", gguf.metadata.get("tokenizer.chat_template"), chat_template),
        ("the EOS token", gguf.metadata.get(f"{ggml}.eos_token_id"), tokens["eosTokenId"]),
        ("`add_bos_token`", gguf.metadata.get(f"{ggml}.add_bos_token"), add_bos),
        ("the vocabulary's size", len(words), vocab),
        ("the context length", gguf.own("context_length"), context or gguf.own("context_length")),
    ):
        if found != expected:
            raise StageError(
                ExitCode.GATE_FAILED,
                f"{what} in the GGUF: {_short(found)}; in training: {_short(expected)}",
                reason="GgufDiffers",
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"
