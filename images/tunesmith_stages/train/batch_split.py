"""How a batch is split into passes where memory ran out: fewer rows at a time, more passes, the same batch.

It is kept beside the checkpoints, so that the next attempt need not find it out again.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from tunesmith_stages.train.settings import Settings
from tunesmith_stages.volume import write_whole

FILE = "batch-split.json"
"""Its name among the checkpoints."""


@dataclass(frozen=True)
class BatchSplit:
    """What each rank takes through the model at once."""

    micro_batch_size: int
    eval_batch_size: int

    def apply(self, settings: Settings) -> Settings:
        """Return the settings with this split, and as many passes as make up the same batch.

        A split that was found for another number of ranks may not divide the batch: then it is made smaller.
        """
        rows = settings.micro_batch_size * settings.accumulation
        micro = _largest_divisor(rows, min(self.micro_batch_size, settings.micro_batch_size))
        return dataclasses.replace(
            settings,
            micro_batch_size=micro,
            accumulation=rows // micro,
            eval_batch_size=min(self.eval_batch_size, settings.eval_batch_size),
        )


def smaller(settings: Settings) -> BatchSplit | None:
    """Return the next smaller split; None: a rank takes one row at a time already."""
    if settings.micro_batch_size == 1 and settings.eval_batch_size == 1:
        return None
    rows = settings.micro_batch_size * settings.accumulation
    micro = _largest_divisor(rows, max(1, settings.micro_batch_size // 2))
    return BatchSplit(micro, max(1, settings.eval_batch_size // 2))


def _largest_divisor(number: int, limit: int) -> int:
    return next(divisor for divisor in range(limit, 0, -1) if number % divisor == 0)


def read(folder: Path) -> BatchSplit | None:
    """Return the split that is kept in the folder of the checkpoints; None: there is none that can be read."""
    try:
        return BatchSplit(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def keep(folder: Path, split: BatchSplit) -> None:
    """Keep the split among the checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, json.dumps(dataclasses.asdict(split)))
