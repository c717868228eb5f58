"""Packs samples into rows: several short ones one after the other, so that little of a batch is padding.

Best fit decreasing (Johnson, Near-optimal bin packing algorithms, 1973): the samples, the longest first, each into the
fullest row that has room for it. It never needs more than 11/9 of the best number of rows and one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WINDOW_SAMPLES = 16_384
"""So many consecutive samples are packed among themselves: enough to fill rows well, few enough for memory."""
WINDOW_TOKENS = 1 << 22
"""With so many tokens in all, fewer samples are enough."""


def pack(lengths: npt.NDArray[np.int32], capacity: int) -> list[list[int]]:
    """Return which samples make up each row, by their numbers.

    Samples stand in a row in their own order, rows in the order of their first samples. The result depends on the
    arguments alone.

    Args:
        lengths: tokens of each sample, at least 1 and at most `capacity`.
        capacity: tokens that a row may have.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    """Rows by the tokens that they have room for."""
    rooms = 0
    """Bit n is set if there is a row with room for just n tokens: the smallest fit is the lowest bit from there on."""
    sizes = lengths.tolist()
    for sample in np.argsort(-lengths, kind="stable").tolist():
        size = sizes[sample]
        fits = rooms >> size
        if fits:
            room = size + (fits & -fits).bit_length() - 1
            row = with_room[room].pop()
            rows[row].append(sample)
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(rows)
            rows.append([sample])
        if left := room - size:
            with_room.setdefault(left, []).append(row)
            rooms |= 1 << left
    return sorted(sorted(row) for row in rows)
