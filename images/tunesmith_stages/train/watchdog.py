"""What NCCL's watchdog said in the log of a rank: it aborts the process, which then can leave no reason of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.causes import WATCHDOG
from tunesmith_stages.train.exchange import RankExit

_LAST_BYTES = 1 << 20
"""How much of a log is looked at: stacks and what other threads wrote come after the watchdog's words."""


def with_aborted(exits: Sequence[RankExit], codes: Mapping[int, int], logs: Path) -> list[RankExit]:
    """Return what ranks have left, and the watchdog's words for those of this node that it aborted.

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
        for line in file.read().decode(errors="replace").splitlines():
            if any(text in line for text in WATCHDOG):
                return RankExit(rank, log.stat().st_mtime, StageError(ExitCode.INTERNAL, line.strip()).failure())
    return None
