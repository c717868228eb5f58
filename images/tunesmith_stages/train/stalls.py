"""Keeps a training that hangs at the same place again and again from being tried for ever: GPUs are held meanwhile.

How often it has hung since its newest checkpoint is kept beside the checkpoints.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.checkpoints import newest_step
from tunesmith_stages.train.stillness import STALLED
from tunesmith_stages.volume import write_whole

FILE = "stalls.json"
"""Its name among the checkpoints."""
MOST = 3
"""Attempts in a row that may hang without a new checkpoint between them."""


def bounded(folder: Path, error: StageError) -> StageError:
    """Return what a failed attempt ends with: its own error, but one that is not tried again if it has hung too often.

    Another try that somebody asks for counts from the beginning.

    Args:
        folder: of the checkpoints.
        error: why the attempt ended.
    """
    if error.reason != STALLED or error.code is not ExitCode.TEMPORARY:
        return error
    step = newest_step(folder)
    count = _count(folder, step) + 1
    with suppress(OSError):  # a volume that cannot be written ends the next attempt by itself
        if count < MOST:
            write_whole(folder / FILE, json.dumps({"step": step, "count": count}))
            return error
        (folder / FILE).unlink(missing_ok=True)
    if count < MOST:
        return error
    return StageError(
        ExitCode.BAD_CONFIG,
        f"{error} It was so {count} times in a row, each time after step {step}, so it is not tried again.",
        reason=STALLED,
        hint="See where each process stood, in the logs rank-0.log and so on. If a step, an evaluation or a save takes "
        "so long, raise `ddpTimeoutSeconds` and `guards.stallMinutes`; else look at the network, the GPUs and the "
        "volume. Then have it tried again: it goes on from its newest checkpoint.",
    )


def _count(folder: Path, step: int) -> int:
    try:
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return int(data["count"]) if data["step"] == step else 0
    except (OSError, ValueError, TypeError, KeyError):
        return 0
