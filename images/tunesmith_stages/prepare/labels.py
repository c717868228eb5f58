"""Tokenizes rendered conversations and labels what the model is to learn: the assistant's turns, and where they end.

The label of a token is its id inside a turn of the assistant, from the first token that the model would write through
the end-of-turn token, and -100 everywhere else. :func:`prove` checks it on the finished rows by decoding.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.rendering import Rendered, Turn
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token on which no loss is taken (PyTorch's `ignore_index`)."""


@dataclass(frozen=True)
class Example:
    """One row, ready to be trained on."""

    input_ids: list[int]
    labels: list[int]
    end_of_turn: int
    """Id of the token that ends the assistant's turns."""
    cut_at_turns: bool
    """Whether the text had to be tokenized turn by turn, because a token would have crossed a turn's edge."""


@dataclass(frozen=True)
class _Token:
    id: int
    start: int
    end: int


class Labeller:
    """Tokenizes and labels with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        empty = tokenizer("")["input_ids"]
        self.adds_bos = bool(empty) and empty[0] == tokenizer.bos_token_id

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a rendered text as the model is given it when it is served.

        A tokenizer that writes a BOS of its own does so unless the text brings one, as llama.cpp does.
        """
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._bos_before(text) + ids

    def label(self, rendered: Rendered) -> Example:
        """Return the labelled tokens of a rendered conversation.

        Raises:
            StageError: a turn has no end-of-turn token.
        """
        tokens = self._tokenize([rendered.text], 0)
        starts = [turn.start for turn in rendered.turns]
        crossing = any(token.start < start < token.end for token in tokens for start in starts)
        if crossing:
            tokens = self._tokenize(_pieces(rendered.text, starts), 0)
        ends = [self._end_of_turn(rendered, turn, tokens) for turn in rendered.turns]
        self._refuse_different(rendered, [tokens[end].id for end in ends])
        bos = self._bos_before(rendered.text)
        labels = [IGNORED] * (len(bos) + len(tokens))
        for turn, end in zip(rendered.turns, ends, strict=True):
            for index in range(end + 1):
                if tokens[index].start >= turn.start:
                    labels[len(bos) + index] = tokens[index].id
        return Example([*bos, *(token.id for token in tokens)], labels, tokens[ends[-1]].id, crossing)

    def _bos_before(self, text: str) -> list[int]:
        bos = self._tokenizer.bos_token
        return [self._tokenizer.bos_token_id] if self.adds_bos and not text.startswith(bos) else []

    def _tokenize(self, pieces: Sequence[str], offset: int) -> list[_Token]:
        tokens = []
        for piece in pieces:
            encoded = self._tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
            reached = 0
            for index, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                # Some tokenizers leave a token's leading blanks out of its offsets: it begins where the last one ended.
                tokens.append(_Token(index, offset + min(start, reached), offset + end))
                reached = max(reached, end)
            offset += len(piece)
        return tokens

    def _end_of_turn(self, rendered: Rendered, turn: Turn, tokens: Sequence[_Token]) -> int:
        for index, token in enumerate(tokens):
            if turn.content_end <= token.start < turn.end and token.id in self._special:
                return index
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"{rendered.conversation.place}: the chat template does not end the assistant's turn with a control token, "
            f"so the model would never learn to stop; after the answer it writes "
            f"{rendered.text[turn.content_end : turn.end]!r}",
            reason="NoEndOfTurn",
            hint="Use a template that writes an end-of-turn token, such as `eos_token`, after each answer.",
        )

    def _refuse_different(self, rendered: Rendered, ends: Sequence[int]) -> None:
        if len(set(ends)) > 1:
            names = ", ".join(repr(self._tokenizer.convert_ids_to_tokens(token)) for token in dict.fromkeys(ends))
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"{rendered.conversation.place}: the chat template ends answers with different control tokens: {names}",
                reason="NoEndOfTurn",
                hint="Use a template that ends each answer with the same token, such as `eos_token`.",
            )


def _pieces(text: str, cuts: Sequence[int]) -> list[str]:
    edges = [0, *cuts, len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def prove(tokenizer: PreTrainedTokenizerBase, rendered: Rendered, example: Example) -> None:
    """Prove the labels of one row.

    Each must be the token in its place or IGNORED; decoded, each labelled run must be a turn's text and the
    end-of-turn token.

    Raises:
        StageError: they are not, with both texts.
    """
    for index, (token, label) in enumerate(zip(example.input_ids, example.labels, strict=True)):
        if label not in {IGNORED, token}:
            raise StageError(
                ExitCode.GATE_FAILED,
                f"{rendered.conversation.place}: the label {label} stands at token {index}, which is {token}",
                reason="LabelsNotProven",
            )
    runs = [_decode(tokenizer, run) for run in _labelled_runs(example.labels)]
    end = _decode(tokenizer, [example.end_of_turn])
    wanted = [
        rendered.text[turn.start : rendered.text.find(end, turn.content_end, turn.end) + len(end)]
        for turn in rendered.turns
    ]
    if [_same(run) for run in runs] != [_same(text) for text in wanted]:
        raise StageError(
            ExitCode.GATE_FAILED,
            f"{rendered.conversation.place}: the labels do not decode to what the assistant says\n"
            f"  labelled: {runs!r}\n  expected: {wanted!r}",
            reason="LabelsNotProven",
            hint="The tokenizer does not give back its text; report the model's tokenizer.",
        )


def _labelled_runs(labels: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    inside = False
    for label in labels:
        if label == IGNORED:
            inside = False
            continue
        if not inside:
            runs.append([])
        runs[-1].append(label)
        inside = True
    return runs


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _same(text: str) -> str:
    """Return a form in which texts are equal that the tokenizer's Unicode normalization makes equal."""
    return unicodedata.normalize("NFC", text)
