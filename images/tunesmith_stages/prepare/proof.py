"""Proves the labels of finished rows, by decoding them: by another way than they were made."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.chat import Span
from tunesmith_stages.prepare.labels import IGNORED, Example, Ints
from tunesmith_stages.prepare.sample import Rendered
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prove(tokenizer: PreTrainedTokenizerBase, rendered: Rendered, example: Example) -> None:
    """Prove the labels of one sample.

    Each must be the token in its place or IGNORED; decoded, each labelled run must be the text of what is learnt.

    Raises:
        StageError: they are not, with both texts.
    """
    wrong = np.flatnonzero((example.labels != IGNORED) & (example.labels != example.input_ids))
    if len(wrong):
        index = int(wrong[0])
        raise StageError(
            ExitCode.GATE_FAILED,
            f"{rendered.conversation.place}: the label {example.labels[index]} stands at token {index}, which is "
            f"{example.input_ids[index]}",
            reason="LabelsNotProven",
        )
    runs = [_decoded(tokenizer, example.input_ids, start, end) for start, end in _labelled_runs(example.labels)]
    wanted = [rendered.text[start:end] for start, end in example.learnt]
    if example.plain_text:
        wanted[-1] += _decode(tokenizer, example.input_ids[-1:])
    if len(runs) != len(wanted) or not all(
        _same(text) in map(_same, run) for run, text in zip(runs, wanted, strict=True)
    ):
        raise StageError(
            ExitCode.GATE_FAILED,
            f"{rendered.conversation.place}: the labels do not decode to what the assistant says\n"
            f"  labelled: {[run[0] for run in runs]!r}\n  expected: {wanted!r}",
            reason="LabelsNotProven",
            hint="The tokenizer does not give back its text; report the model's tokenizer.",
        )


def _labelled_runs(labels: Ints) -> list[Span]:
    learnt = np.concatenate([[False], labels != IGNORED, [False]])
    edges = np.flatnonzero(learnt[1:] != learnt[:-1])
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Ints, start: int, end: int) -> tuple[str, str]:
    """Return the text of a run of tokens, decoded by itself and behind the token before it.

    Tokenizers of SentencePiece's kind drop a blank at the beginning of what they decode, and some of them put one
    behind each control token when they encode: one of the two is the text.
    """
    before, text = (_decode(tokenizer, ids[max(0, start - 1) : last]) for last in (start, end))
    return _decode(tokenizer, ids[start:end]), text.removeprefix(before)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Ints) -> str:
    text: str = tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _same(text: str) -> str:
    """Return a form in which texts are equal that the tokenizer's Unicode normalization makes equal."""
    return unicodedata.normalize("NFC", text)
