"""How likely the base holds the answers that are trained on: what DPO and KTO compare the model with.

It is found out once, before the first step, while the model still is the base; so no second model is in memory,
whatever is trained in whatever way. Each checkpoint holds it, for a training that goes on from one has no base left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from tunesmith_stages.train.order import epoch_order, eval_batches
from tunesmith_stages.train.preference_rows import Batch

FILE = "base_answers.safetensors"
"""Its name inside a checkpoint."""

Tables = dict[str, torch.Tensor]
"""For ``train`` and ``validation`` two natural-log probabilities of each row, float32; NaN where none was needed."""


def used_rows(rows: int, steps: int, batch: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the rows that so many steps take, where they do not take all."""
    return epoch_order(rows, seed, 0)[: steps * batch]


def ask_base(
    rows: Any,
    used: npt.NDArray[np.int64],
    micro: int,
    collate: Callable[[list[Any]], Batch],
    measure: Callable[[Batch], torch.Tensor],
    check: Callable[[], None],
    counted: Callable[[list[list[int]]], Iterable[list[int]]],
    device: torch.device,
) -> torch.Tensor:
    """Return the log probabilities of all rows, with every rank taking its share.

    Args:
        rows: rows that have `lengths`.
        used: those that are needed.
        micro: rows that a rank takes through the model at once.
        collate: makes a batch of rows.
        measure: takes a batch through the model; gives its rows' log probabilities, of shape (rows, 2).
        check: is called before every batch; raises if the training is to end.
        counted: yields batches, and tells how many are done.
        device: where ranks exchange what they have.
    """
    longest_first = used[np.argsort(-rows.lengths[used], kind="stable")]  # little padding; no memory: known at once
    table = torch.zeros((len(rows), 2), dtype=torch.float32, device=device)
    for places in counted(eval_batches(len(used), dist.get_world_size(), micro, dist.get_rank())):
        check()
        batch = collate([rows[int(longest_first[place])] for place in places])
        with torch.no_grad():
            table[batch["rows"]] = measure(batch)
    dist.all_reduce(table)
    asked = torch.zeros(len(rows), dtype=torch.bool, device=device)
    asked[torch.from_numpy(used)] = True
    table[~asked] = torch.nan
    return table


def write(folder: Path, tables: Mapping[str, torch.Tensor]) -> None:
    """Write the tables into a checkpoint."""
    save_file({name: table.cpu() for name, table in tables.items()}, folder / FILE)


def read(folder: Path, device: torch.device) -> Tables:
    """Read the tables of a checkpoint."""
    return {name: table.to(device) for name, table in load_file(folder / FILE).items()}
