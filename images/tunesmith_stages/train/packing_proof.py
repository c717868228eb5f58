"""Proves that packing changes nothing: each sample of a packed row has the loss that it has alone.

Whether the samples of a row see each other is up to the attention that the model uses and the libraries around it: with
a mask of ones, or with a cache, they do, and nothing says so. So it is tried before the first step, with the model and
in the precision that are trained with. Two things are measured, in nats per token:

- the loss of each sample, packed against alone;
- the loss of each but the first, packed, against the same with another text in the first one's place. Rounding to 16
  bits makes the former differ a little in any case, and could hide that a sample sees another one; this it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.rows import IGNORED, Ints, Row, Rows, pad
from tunesmith_stages.train.settings import Precision

TOLERANCE = {Precision.FP32: 1e-4, Precision.FP16: 1e-2, Precision.BF16: 5e-2}
"""By how much a sample's loss may differ between packed and alone, in nats per token: what rounding makes of it."""

LEAK = {Precision.FP32: 1e-5, Precision.FP16: 1e-3, Precision.BF16: 5e-3}
"""By how much it may depend on the sample before it: not at all, but for kernels that sum in another order then."""

_ROWS, _SAMPLES = 2, 8
"""Packed rows that are tried, and samples of each that are looked at alone."""
_FARTHEST = 1000
"""Rows among which they are looked for."""

Forward = Callable[[dict[str, torch.Tensor]], Any]
"""Takes a batch without labels through the model; gives its logits, of shape (rows, tokens, vocabulary)."""


def prove_packing(forward: Forward, rows: Rows, precision: Precision, attention: str) -> int:
    """Prove for the first packed rows that packing changes nothing; return how many samples were compared.

    Every rank must call this with the same rows: with ZeRO-3 each holds a part of every layer.

    Args:
        forward: the model, as it is trained, without drop-out.
        rows: what is trained on.
        precision: of the model.
        attention: transformers' name of the attention that the model uses.

    Raises:
        StageError: packing does change something.
    """
    compared = 0
    for number in _first_packed(rows):
        row = rows[number]
        packed = _losses(forward, row)
        mirrored = _losses(forward, _with_other_beginning(row))
        parts = _samples(row)
        for index in range(0, len(parts), -(-len(parts) // _SAMPLES)):
            (alone,) = _losses(forward, parts[index])
            where = f"sample {index + 1} of row {number + 1} of {rows.path.name}"
            _compare(where, packed[index], alone, TOLERANCE[precision], "alone", attention)
            if index > 0:
                what = "with another text before it"
                _compare(where, packed[index], mirrored[index], LEAK[precision], what, attention)
            compared += 1
    return compared


def _compare(where: str, packed: float, other: float, tolerance: float, how: str, attention: str) -> None:
    if not abs(packed - other) <= tolerance:  # also if one is not a number
        raise StageError(
            ExitCode.GATE_FAILED,
            f"packed rows would not be trained on as their samples: with the attention implementation {attention!r} "
            f"the loss of {where} is {packed:.6f} packed and {other:.6f} {how}; they may differ by {tolerance:g}",
            reason="PackingNotProven",
            hint="Set `training.packing` to false: this model cannot keep the samples of a packed row apart.",
        )


def _first_packed(rows: Rows) -> Iterator[int]:
    """Yield the numbers of the first rows that are made of several samples."""
    found = 0
    for number in range(min(len(rows), _FARTHEST)):
        samples = rows[number].samples
        if samples is not None and len(samples) > 1:
            yield number
            found += 1
        if found == _ROWS:
            return


def _samples(row: Row) -> list[Row]:
    """Return the samples of a packed row, each as a row of its own."""
    ends = np.cumsum(_lengths(row)).tolist()
    starts = [0, *ends[:-1]]
    return [Row(row.ids[start:end], row.labels[start:end]) for start, end in zip(starts, ends, strict=True)]


def _with_other_beginning(row: Row) -> Row:
    """Return the row with other tokens, which also occur in it or between them, in place of its first sample's."""
    ids: Ints = row.ids.copy()
    first = slice(0, int(_lengths(row)[0]))
    ids[first] = ids.max() + ids.min() - ids[first]
    return row._replace(ids=ids)


def _losses(forward: Forward, row: Row) -> list[float]:
    """Return the mean next-token cross entropy of each sample of a row, in nats; 0 of one without labels."""
    batch = {name: torch.from_numpy(array) for name, array in pad([row], packed=row.samples is not None).items()}
    labels = batch.pop("labels")[0]
    with torch.no_grad():
        logits = forward(batch)[0]
    losses = []
    start = 0
    for length in _lengths(row):
        scores, targets = logits[start : start + length - 1], labels[start + 1 : start + length].to(logits.device)
        total = functional.cross_entropy(scores.float(), targets, ignore_index=IGNORED, reduction="sum")
        losses.append(float(total) / max(1, int((targets != IGNORED).sum())))
        start += length
    return losses


def _lengths(row: Row) -> Sequence[int]:
    return [len(row.ids)] if row.samples is None else row.samples.tolist()
