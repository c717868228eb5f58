"""What libraries said in the log of a rank that crashed: one that is aborted can leave no reason of its own.

NCCL's watchdog aborts its process after it has waited for too long, or when CUDA has failed under it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tunesmith_stages.contract import FAILURE_CLASSES, ExitCode, Failure
from tunesmith_stages.reasons import recognised
from tunesmith_stages.reasons.gpu import TIMED_OUT
from tunesmith_stages.reasons.row import Where
from tunesmith_stages.train.exchange import RankExit

_LAST_BYTES = 1 << 20
"""How much of a log is looked at: stacks and what other threads wrote come after the watchdog's words."""


def with_aborted(exits: Sequence[RankExit], codes: Mapping[int, int], logs: Path) -> list[RankExit]:
    """Return what ranks have left, and the last known words of those of this node that were aborted.

    Args:
        exits: what ranks have left.
        codes: exit codes of this node's ranks, by rank.
        logs: the folder with the ranks' logs.
    """
    aborted = [rank for rank, code in codes.items() if code == -signal.SIGABRT]
    silent = sorted(set(aborted) - {left.rank for left in exits})
    return [*exits, *(found for rank in silent if (found := _said(rank, logs / f"rank-{rank}.log")))]


def _said(rank: int, log: Path) -> RankExit | None:
    with suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LAST_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
        for line in lines:
            if (row := recognised(Where.LOG, text=line)) is not None:
                return RankExit(rank, log.stat().st_mtime, Failure.of(row, line.strip()))
        for line in lines:  # what it says of others is weighed with theirs; that it lost them may be long past
            if recognised(Where.PEERS, text=line) is TIMED_OUT:
                unexplained = FAILURE_CLASSES[ExitCode.INTERNAL]
                return RankExit(rank, log.stat().st_mtime, Failure.of(unexplained, line.strip()))
    return None
