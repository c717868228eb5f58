"""Keeps a training that ends at the same place again and again from being tried for ever: GPUs are held meanwhile.

That goes for what may pass and need not: it hangs, a GPU or NCCL fails. How often it was so since the newest checkpoint
is kept beside the checkpoints.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.reasons import REASONS
from tunesmith_stages.train.checkpoints import newest_step
from tunesmith_stages.volume import write_whole

FILE = "stalls.json"
"""Its name among the checkpoints."""
MOST = 3
"""Attempts in a row that may end so without a new checkpoint between them."""


def bounded(folder: Path, error: StageError) -> StageError:
    """Return what a failed attempt ends with: its own error, but one that is not tried again if it was so too often.

    Another try that somebody asks for counts from the beginning.

    Args:
        folder: of the checkpoints.
        error: why the attempt ended.
    """
    row = REASONS.get(error.reason)
    if error.code is not ExitCode.TEMPORARY or row is None or ExitCode.BAD_CONFIG not in row.classes:
        return error
    step = newest_step(folder)
    count = _count(folder, step) + 1
    with suppress(OSError):  # a volume that cannot be written ends the next attempt by itself
        folder.mkdir(parents=True, exist_ok=True)  # it may have ended before there was anything to save
        if count < MOST:
            write_whole(folder / FILE, json.dumps({"step": step, "count": count}))
            return error
        (folder / FILE).unlink(missing_ok=True)
    if count < MOST:
        return error
    return StageError(
        ExitCode.BAD_CONFIG,
        f"{error} It was so {count} times in a row, each time after step {step}, so it is not tried again.",
        reason=error.reason,
        hint=f"{row.hint} Then have it tried again: it goes on from its newest checkpoint.",
    )


def _count(folder: Path, step: int) -> int:
    try:
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return int(data["count"]) if data["step"] == step else 0
    except (OSError, ValueError, TypeError, KeyError):
        return 0
