r"""Tokenizes words once: natural language repeats them, and tokenizing is most of what `prepare` does.

Byte-level BPE splits a text by a pattern and tokenizes each part by itself. The patterns that are known here never look
back, and a blank with a letter behind it begins a part, as does a letter behind a single line break. So a text can be
cut there, and before a control token: the tokens of the whole are those of the pieces. Pieces are looked up, and what
is new is given to the tokenizer. Any other tokenizer is used as it is. For the first texts both ways are compared.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

_CUT = r"(?<=[!-~])(?= [A-Za-z])|(?<=[!-~]\n)(?=[A-Za-z])"
_WORD = r" ?[!-~]++(?= [A-Za-z])"
"""The most frequent piece."""
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = frozenset(
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + numbers + _REST for numbers in (r"\p{N}", r"\p{N}{1,3}")
)
"""Patterns of Qwen 2 and Llama 3, and what is derived from them. GPT-2's is a part of the tokenizers library."""
_LONGEST, _MOST = 40, 50_000
"""Characters of a piece that is remembered, and how many are (some 20 MB)."""
_COMPARED = 500
"""Texts that are tokenized both ways."""

_Piece = tuple[bytes, tuple[tuple[int, int], ...]]
"""Ids as int32, and the place of each token in the piece."""


class Joined:
    """The tokens of a text by those of its pieces, with what is used of the tokenizers library's `Encoding`."""

    __slots__ = ("__dict__", "_lengths", "_pieces", "ids")

    def __init__(self, pieces: Sequence[_Piece], lengths: Sequence[int]) -> None:
        self._pieces = pieces
        self._lengths = lengths
        self.ids: npt.NDArray[np.int32] = np.frombuffer(b"".join([ids for ids, _ in pieces]), np.int32)

    @cached_property
    def _starts(self) -> list[int]:
        """Where each piece begins in the text."""
        return list(accumulate(self._lengths, initial=0))

    @cached_property
    def _firsts(self) -> list[int]:
        """Which is the first token of each piece."""
        return list(accumulate((len(places) for _, places in self._pieces), initial=0))

    def char_to_token(self, char: int) -> int | None:
        """Return the first token that holds a character, if there is one."""
        index = bisect_right(self._starts, char) - 1
        if index >= len(self._pieces):
            return None
        within = char - self._starts[index]
        for token, (start, end) in enumerate(self._pieces[index][1]):
            if start <= within < end:
                return self._firsts[index] + token
        return None

    def token_to_chars(self, token: int) -> tuple[int, int]:
        """Return where a token stands."""
        index = bisect_right(self._firsts, token) - 1
        start, end = self._pieces[index][1][token - self._firsts[index]]
        return self._starts[index] + start, self._starts[index] + end

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Where every token stands."""
        pieces = zip(self._starts, self._pieces, strict=False)
        return [(first + start, first + end) for first, (_, places) in pieces for start, end in places]


class Words:
    """Tokenizes texts with a tokenizer of the tokenizers library, by their words where that is the same."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._known: dict[str, _Piece] = {}
        self._cuts = cuts_at_words(backend)
        self._left_to_compare = _COMPARED
        self._cut: re.Pattern[str] | None = None

    def encode_batch(self, texts: Sequence[str]) -> list[Any]:
        """Return the encodings of texts, without adding anything to them."""
        if not self._cuts:
            return self._whole(texts)
        joined = self._joined(texts)
        if self._left_to_compare > 0:
            self._left_to_compare -= len(texts)
            whole = self._whole(texts)
            same = all(list(ours.ids) == theirs.ids for ours, theirs in zip(joined, whole, strict=True))
            if not same or any(ours.offsets != theirs.offsets for ours, theirs in zip(joined, whole, strict=True)):
                self._cuts = False
                return whole
        return joined

    def _whole(self, texts: Sequence[str]) -> list[Any]:
        encodings: list[Any] = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return encodings

    def _joined(self, texts: Sequence[str]) -> list[Any]:
        if self._cut is None:
            places = "|".join([_CUT, *_before_tokens(self._backend, texts)])
            self._cut = re.compile(rf"{_WORD}|.+?(?:{places}|\Z)", re.DOTALL)
        # A blank at the very beginning is a case of its own where tokens leave blanks out of their places.
        cut = [[text] if text.startswith(" ") else self._cut.findall(text) for text in texts]
        known = self._known
        new = {piece for pieces in cut if len(pieces) > 1 for piece in pieces if piece not in known}
        found = self._tokenized(sorted(new)) if new else {}
        room = _MOST - len(known)
        known.update([item for item in found.items() if len(item[0]) <= _LONGEST][:room])
        return [
            self._whole(pieces)[0]
            if len(pieces) == 1
            else Joined([known.get(piece) or found[piece] for piece in pieces], list(map(len, pieces)))
            for pieces in cut
        ]

    def _tokenized(self, pieces: Sequence[str]) -> dict[str, _Piece]:
        """Return the tokens of pieces; what begins with a blank is tokenized behind a letter, as in its text."""
        behind = ["a" + piece if piece.startswith(" ") else piece for piece in pieces]
        found = {}
        for piece, text, encoding in zip(pieces, behind, self._whole(behind), strict=True):
            skipped = len(text) - len(piece)
            places = tuple((start - skipped, end - skipped) for start, end in encoding.offsets[skipped:])
            found[piece] = np.array(encoding.ids[skipped:], np.int32).tobytes(), places
        return found


def _before_tokens(backend: Any, texts: Sequence[str]) -> list[str]:
    """Return patterns of the places before the added tokens that are in `texts`, if no other one can reach there."""
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    used = [token for token in added if any(token in text for text in texts)]
    return [f"(?={re.escape(token)})" for token in used if not any(_reaches(other, token) for other in added)]


def _reaches(other: str, token: str) -> bool:
    """Return whether `token` can begin within `other`."""
    return any(token.startswith(other[place : place + len(token)]) for place in range(1, len(other)))


def cuts_at_words(backend: Any) -> bool:
    """Return whether a tokenizer is known to tokenize the pieces of a text as it does the whole."""
    if type(backend.model).__name__ != "BPE" or backend.model.dropout is not None or backend.pre_tokenizer is None:
        return False
    if backend.normalizer is not None and type(backend.normalizer).__name__ != "NFC":
        return False
    if len(backend.encode("a", add_special_tokens=False).ids) != 1:
        return False
    added = backend.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip or token.single_word or " " in token.content for token in added):
        return False
    return _splits_words(json.loads(backend.pre_tokenizer.__getstate__()))


def _splits_words(pre_tokenizer: dict[str, Any]) -> bool:
    match pre_tokenizer:
        case {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}:
            return True
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
            ],
        }:
            return pattern in _PATTERNS
    return False
