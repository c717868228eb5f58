r"""Tokenizes words once: natural language repeats them, and tokenizing is most of what `prepare` does.

Byte-level BPE splits a text by a pattern and tokenizes each part by itself. The patterns that are known here never look
back, and a blank with a letter behind it begins a part, as does a letter behind a single line break. So a text can be
cut there, and before a control token: the tokens of the whole are those of the pieces. Pieces are looked up, and what
is new is given to the tokenizer. Any other tokenizer is used as it is. For the first texts both ways are compared.
"""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from itertools import accumulate, chain
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
_LONGEST, _MOST, _MOST_PLACES = 40, 30_000, 5_000
"""Characters of a piece whose tokens are remembered, how many such (6 MB), and of how many the tokens' places are."""
_COMPARED = 500
"""Texts that are tokenized both ways."""
_ID = 4
"""Bytes of an id."""

_Places = tuple[tuple[int, int], ...]
"""Where each token of a piece stands in it."""


class Joined:
    """The tokens of a text by those of its pieces, with what is used of the tokenizers library's `Encoding`.

    Args:
        pieces: of the text.
        tokens: ids of each piece, as int32.
        places: gives the places of a piece's tokens.
    """

    __slots__ = ("__dict__", "_places", "_tokens", "ids", "pieces")

    def __init__(self, pieces: Sequence[str], tokens: Sequence[bytes], places: Callable[[str], _Places]) -> None:
        self.pieces = pieces
        self._tokens = tokens
        self._places = places
        self.ids: npt.NDArray[np.int32] = np.frombuffer(b"".join(tokens), np.int32)

    @cached_property
    def _starts(self) -> list[int]:
        """Where each piece begins in the text."""
        return list(accumulate(map(len, self.pieces), initial=0))

    @cached_property
    def _firsts(self) -> list[int]:
        """Where the first token of each piece is, in bytes of all ids."""
        return list(accumulate(map(len, self._tokens), initial=0))

    def char_to_token(self, char: int) -> int | None:
        """Return the first token that holds a character, if there is one."""
        index = bisect_right(self._starts, char) - 1
        if index >= len(self.pieces):
            return None
        piece, within = self.pieces[index], char - self._starts[index]
        if within == 0 and _is_seen(piece[0]):
            return self._firsts[index] // _ID
        for token, (start, end) in enumerate(self._places(piece)):
            if start <= within < end:
                return self._firsts[index] // _ID + token
        return None

    def begin(self, token: int) -> int:
        """Return where a token begins."""
        index, within = self._piece_of(token)
        piece = self.pieces[index]
        if within == 0 and _is_seen(piece[0]):
            return self._starts[index]
        return self._starts[index] + self._places(piece)[within][0]

    def end(self, token: int) -> int:
        """Return where a token ends."""
        index, within = self._piece_of(token)
        piece = self.pieces[index]
        if (token + 1) * _ID == self._firsts[index + 1] and _is_seen(piece[-1]):
            return self._starts[index + 1]
        return self._starts[index] + self._places(piece)[within][1]

    def token_to_chars(self, token: int) -> tuple[int, int]:
        """Return where a token stands."""
        return self.begin(token), self.end(token)

    def _piece_of(self, token: int) -> tuple[int, int]:
        """Return which piece a token is of, and which of its tokens it is."""
        index = bisect_right(self._firsts, token * _ID) - 1
        return index, token - self._firsts[index] // _ID

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Where every token stands."""
        pieces = zip(self._starts, map(self._places, self.pieces), strict=False)
        return [(first + start, first + end) for first, places in pieces for start, end in places]


class Words:
    """Tokenizes texts with a tokenizer of the tokenizers library, by their words where that is the same."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._known: dict[str, bytes] = {}
        self._known_places: dict[str, _Places] = {}
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
            self._learn_places({piece for ours in joined if isinstance(ours, Joined) for piece in ours.pieces})
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
        new = sorted(set(chain.from_iterable(pieces for pieces in cut if len(pieces) > 1)).difference(known))
        room = _MOST - len(known)
        known.update(zip(new, self._tokenized(new), strict=True))
        encodings = [
            self._whole(pieces)[0]
            if len(pieces) == 1
            else Joined(pieces, list(map(known.__getitem__, pieces)), self._places_of)
            for pieces in cut
        ]
        short = [piece for piece in new if len(piece) <= _LONGEST]
        for piece in set(new).difference(short[:room]):
            del known[piece]
        return encodings

    def _tokenized(self, pieces: Sequence[str]) -> list[bytes]:
        """Return the ids of pieces; what begins with a blank is tokenized behind a letter, as in its text."""
        found = self._backend.encode_batch_fast(list(map(_behind, pieces)), add_special_tokens=False)
        return [
            array("i", encoding.ids[piece.startswith(" ") :]).tobytes()
            for piece, encoding in zip(pieces, found, strict=True)
        ]

    def _places_of(self, piece: str) -> _Places:
        """Return where the tokens of a piece stand in it. That is asked of few pieces: those at the edges of turns."""
        if piece not in self._known_places:
            if len(self._known_places) >= _MOST_PLACES:
                self._known_places.clear()
            self._learn_places([piece])
        return self._known_places[piece]

    def _learn_places(self, pieces: Collection[str]) -> None:
        for piece, encoding in zip(pieces, self._whole(list(map(_behind, pieces))), strict=True):
            skipped = int(piece.startswith(" "))
            places = tuple((start - skipped, end - skipped) for start, end in encoding.offsets[skipped:])
            self._known_places[piece] = places


def _behind(piece: str) -> str:
    return "a" + piece if piece.startswith(" ") else piece


def _is_seen(char: str) -> bool:
    """Say whether a character is one that no tokenizer leaves out of its token's place, unlike blanks."""
    return "!" <= char <= "~"


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
