"""Tokens of a text with their places in it, as far as labels need them."""

from __future__ import annotations

import bisect
import itertools
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.sample import Rendered
from tunesmith_stages.prepare.words import Joined, Words
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokenized:
    """The tokens of one text.

    Args:
        pieces: encodings of the `tokenizers` library, one after the other, and where in the text each begins.
        control: ids of the control tokens.
    """

    def __init__(self, pieces: Sequence[tuple[Any, int]], control: frozenset[int]) -> None:
        self._pieces = pieces
        self._control = control
        ids = [index for encoding, _ in pieces for index in encoding.ids] if len(pieces) > 1 else pieces[0][0].ids
        self.ids: NDArray[np.int32] = np.asarray(ids, np.int32)

    def first_from(self, char: int) -> tuple[int, bool]:
        """Return the index of the first token that begins at `char` or later, and whether the one before crosses it."""
        if len(self._pieces) == 1:
            index = self._exactly_at(char)
            if index is not None:
                return index, False
        starts, ends = self._places
        index = bisect.bisect_left(starts, char)
        return index, index > 0 and ends[index - 1] > char

    def _exactly_at(self, char: int) -> int | None:
        """Return the token that begins at `char` where the one before ends, without looking at any other."""
        encoding = self._pieces[0][0]
        index: int | None = encoding.char_to_token(char)
        if index is None or _begin(encoding, index) != char:
            return None
        before = _end(encoding, index - 1) if index > 0 else 0
        return index if before == char else None

    def begin(self, index: int) -> int:
        """Return where a token begins."""
        return _begin(self._pieces[0][0], index) if len(self._pieces) == 1 else self._places[0][index]

    def control_tokens(self, start: int, end: int) -> list[int]:
        """Return the indexes of the control tokens that begin between two places."""
        first = self.first_from(start)[0]
        found = []
        for index in range(first, len(self.ids)):
            if self.begin(index) >= end:
                break
            if int(self.ids[index]) in self._control:
                found.append(index)
        return found

    @cached_property
    def _places(self) -> tuple[list[int], list[int]]:
        """Where each token begins and ends.

        Some tokenizers leave a token's leading blanks out of its place: it begins where the last one ended.
        """
        starts: list[int] = []
        ends: list[int] = []
        for encoding, offset in self._pieces:
            reached = 0
            for start, end in encoding.offsets:
                starts.append(offset + min(start, reached))
                reached = max(reached, end)
                ends.append(offset + end)
        return starts, ends


def _begin(encoding: Any, token: int) -> int:
    place: int = encoding.begin(token) if isinstance(encoding, Joined) else encoding.token_to_chars(token)[0]
    return place


def _end(encoding: Any, token: int) -> int:
    place: int = encoding.end(token) if isinstance(encoding, Joined) else encoding.token_to_chars(token)[1]
    return place


class Tokens:
    """Tokenizes without adding anything to the text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._words = Words(self._backend)
        self._control = frozenset(index for index, token in tokenizer.added_tokens_decoder.items() if token.special)

    def plain(self, texts: Sequence[str]) -> list[Tokenized]:
        """Return the tokens of texts, control tokens' text read as control tokens."""
        encodings = self._words.encode_batch(texts)
        return [Tokenized([(encoding, 0)], self._control) for encoding in encodings]

    def cut(self, sample: Rendered, cuts: Iterable[int]) -> Tokenized:
        """Return the tokens of a sample so that none crosses one of `cuts`, and its literal places are text.

        Raises:
            StageError: this tokenizer makes control tokens of such a place all the same.
        """
        literal = dict(sample.literal)
        edges = sorted({0, *cuts, *literal, *literal.values(), len(sample.text)})
        pieces = []
        for start, end in itertools.pairwise(edges):
            is_literal = start in literal
            encoding = self._encode(sample.text[start:end], literal=is_literal)
            if is_literal and not self._control.isdisjoint(encoding.ids):
                raise _cannot_be_text(sample, sample.text[start:end])
            pieces.append((encoding, start))
        tokenized = Tokenized(pieces, self._control)
        if literal and self._decoded(tokenized) != unicodedata.normalize("NFC", sample.text):
            raise _cannot_be_text(sample, sample.text[slice(*sample.literal[0])])
        return tokenized

    def _encode(self, text: str, *, literal: bool) -> Any:
        self._backend.encode_special_tokens = literal
        try:
            return self._backend.encode(text, add_special_tokens=False)
        finally:
            self._backend.encode_special_tokens = False

    def _decoded(self, tokenized: Tokenized) -> str:
        text: str = self._backend.decode(tokenized.ids.tolist(), skip_special_tokens=False)
        return unicodedata.normalize("NFC", text)


def _cannot_be_text(sample: Rendered, text: str) -> StageError:
    return StageError(
        ExitCode.BAD_DATA,
        f"{sample.conversation.place}: it holds {text!r}, the text of a control token, and this tokenizer cannot "
        "keep it apart from the control token",
        reason="ControlTokenInText",
        hint="Take the control token's text out of the row, or leave the row out (`onBadRow: Skip`).",
    )
