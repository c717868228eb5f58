"""Chooses the checkpoint that all ranks go on from: rank 0 does, and each rank reads its part of the files.

Ranks that looked for themselves could see different folders, and one that read everything alone would keep the others
waiting. What a rank reads here it loads next, mostly, and then has in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from tunesmith_stages.train import checkpoints
from tunesmith_stages.train.checkpoints import Check, Checkpoint

_Found = TypeVar("_Found")


def newest(folder: Path, layout: Mapping[str, Any]) -> tuple[Checkpoint | None, list[str]]:
    """Return what :func:`.checkpoints.newest` does; every rank must call this.

    Raises:
        StageError: it was written by another number of ranks, or under another layout (rank 0 alone knows).
    """
    return _together(lambda check: checkpoints.newest(folder, dist.get_world_size(), layout, check))


def of_step(folder: Path, step: int) -> Checkpoint | str:
    """Return what :func:`.checkpoints.of_step` does; every rank must call this."""
    return _together(lambda check: checkpoints.of_step(folder, step, check))


def _together(find: Callable[[Check], _Found]) -> _Found:
    """Let rank 0 find something, with the others' help in checking; return it to all."""
    if dist.get_rank() == 0:
        found = find(_check)
        _say({"found": found})
        return found
    while "found" not in (said := _say(None)):
        _gather(said["check"])
    result: _Found = said["found"]
    return result


def _check(checkpoint: Checkpoint) -> str | None:
    """Have every rank read its own files of a checkpoint (rank 0); return what is wrong with them, or None."""
    _say({"check": checkpoint})
    return next(filter(None, _gather(checkpoint)), None)


def _say(words: dict[str, Any] | None) -> dict[str, Any]:
    """Return what rank 0 says."""
    said = [words]
    dist.broadcast_object_list(said)
    return said[0] or {}


def _gather(checkpoint: Checkpoint) -> list[str | None]:
    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, checkpoints.damage(checkpoint, dist.get_rank()))
    return found
