"""Checkpoints of a training: how they become complete, which one to go on from, which to remove.

They lie in one folder per content key, shared by its attempts::

    step-<n>.<attempt>/     being written
    step-<n>/               complete: every file forced to disk, listed with size and checksum in COMPLETE

A checkpoint holds pickles, so it is loaded from this folder alone, and only as its manifest says that it was written
(:mod:`.manifest`). Standard library only.
"""

from __future__ import annotations

import glob
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.manifest import (
    COMPLETE,
    DamagedError,
    FileFacts,
    check_content,
    forced_to_disk,
    read_manifest,
    size_of,
    write_manifest,
)
from tunesmith_stages.volume import files_below, publish, sync

__all__ = ["COMPLETE", "Check", "Checkpoint", "complete", "damage", "newest", "of_step"]

SEEN_WITHIN = 90
"""Seconds for which a network file system may show what was before (its attribute cache)."""

_PUBLISHED = re.compile(r"step-(\d+)")
_SPARED = 3600.0  # seconds
_OF_RANK = re.compile(r"(?:zero_pp_rank|rng_state)_(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    step: int
    """Optimizer steps that it holds."""
    world_size: int
    """Ranks that wrote it; a ZeRO checkpoint is of no use to another number."""
    layout: Mapping[str, Any]
    """See :func:`.deepspeed_config.state_layout`; with another it must not be loaded."""


Check = Callable[[Checkpoint], str | None]
"""Reads the files of a checkpoint; returns what is wrong with them, or None."""


def staging(folder: Path, step: int, attempt: str) -> Path:
    """Return where attempt `attempt` writes its checkpoint of step `step`."""
    return folder / f"step-{step}.{attempt}"


def clear_leftovers(folder: Path) -> None:
    """Remove what attempts that are gone had begun to write.

    An attempt may live, though another one begins: a pod of a FineTuneJob that was deleted and applied again can still
    be saving what it has when the new one's starts. What is being written is left alone as long as its attempt's own
    folder has its ``out``, which goes when the attempt ends or is cleared up behind, and for an hour at most.
    """
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not _PUBLISHED.fullmatch(path.name) and not _may_be_written(path):
                shutil.rmtree(path, ignore_errors=True)


def discard(folder: Path, attempt: str) -> None:
    """Remove what attempt `attempt` had begun to write, now that its ranks have ended."""
    for path in folder.glob(f"step-*.{glob.escape(attempt)}"):
        shutil.rmtree(path, ignore_errors=True)


def _may_be_written(staged: Path) -> bool:
    """Return whether the attempt that writes a checkpoint has not ended, as far as can be seen, and wrote lately."""
    attempt = staged.name.partition(".")[2]
    if not staged.parent.with_name(f"{staged.parent.stem}.{attempt}").joinpath("out").is_dir():
        return False
    with suppress(FileNotFoundError):  # it was published or removed at this moment
        return time.time() - max(path.stat().st_mtime for path in (staged, *staged.rglob("*"))) < _SPARED
    return False


def sync_own_files(staged: Path, rank: int) -> dict[str, FileFacts]:
    """Force to disk the files that rank `rank` wrote; return them by name."""
    own = [path for path in files_below(staged) if _writer(path.name) == rank]
    return {path.relative_to(staged).as_posix(): forced_to_disk(path) for path in own}


def _writer(name: str) -> int:
    """Return the rank that writes a file: rank 0, if its name tells none."""
    named = _OF_RANK.search(name)
    return int(named.group(1)) if named else 0


def complete(
    staged: Path, step: int, files: Mapping[str, FileFacts], facts: Mapping[str, Any], seen_within: float = SEEN_WITHIN
) -> Checkpoint:
    """Publish a checkpoint that every rank has finished writing (rank 0).

    Args:
        staged: its folder, as :func:`staging` names it.
        step: optimizer steps that it holds.
        files: what all ranks wrote, in their own words. Rank 0 cannot trust its own eyes, for on a network file
            system it may see another node's files late, or as they were a minute ago.
        facts: recorded in the manifest: ``worldSize``, ``zeroStage``, ``layout``, and what else is worth knowing.
        seen_within: seconds after which a file of another rank must be seen here.

    Raises:
        OSError: a rank's file is missing or empty, or the disk refuses.
    """
    _check_files(staged, files, facts["worldSize"], facts["zeroStage"])
    for path in {(staged / name).parent for name in files}:
        sync(path)
    _wait_until_seen(staged, files, seen_within)
    write_manifest(staged, step, files, facts)
    final = staged.parent / f"step-{step}"
    publish(staged, final, lambda: isinstance(of_step(staged.parent, step), Checkpoint))
    return Checkpoint(final, step, facts["worldSize"], facts["layout"])


def _check_files(staged: Path, files: Mapping[str, FileFacts], world_size: int, zero_stage: int) -> None:
    empty = sorted(name for name, known in files.items() if known.size == 0)
    if empty:
        raise OSError(f"checkpoint {staged.name}: {empty[0]} is empty")
    wanted = ["rng_state"] + (["optim_states"] if zero_stage else [])
    for kind in wanted:
        written = sum(kind in Path(name).name for name in files)
        if written != world_size:
            raise OSError(f"checkpoint {staged.name}: {written} of {world_size} ranks left a file *{kind}*")


def _wait_until_seen(staged: Path, files: Mapping[str, FileFacts], within: float) -> None:
    """Wait until every file is seen here as its rank left it: then it is on the volume, and on one that all share."""
    end = time.monotonic() + within
    while unseen := [name for name, known in sorted(files.items()) if size_of(staged / name) != known.size]:
        if time.monotonic() > end:
            raise OSError(
                f"checkpoint {staged.name}: of {unseen[0]} {size_of(staged / unseen[0])} bytes are on this node's "
                f"volume {within:g} s after the rank that wrote it closed it with {files[unseen[0]].size}"
            )
        time.sleep(0.5)


def _read(folder: Path) -> Checkpoint | str:
    """Return the checkpoint in `folder`, or what is wrong with it that can be seen without reading its files."""
    try:
        manifest = read_manifest(folder)
    except DamagedError as error:
        return str(error)
    if manifest.step != _step(folder):
        return f"{COMPLETE} is that of step {manifest.step}"
    return Checkpoint(folder, manifest.step, manifest.world_size, manifest.layout)


def damage(checkpoint: Checkpoint, rank: int | None = None) -> str | None:
    """Read the files of a checkpoint that rank `rank` wrote, or all; return what is wrong with them, or None."""
    try:
        files = read_manifest(checkpoint.folder).files
        wanted = {name: known for name, known in files.items() if rank is None or _writer(Path(name).name) == rank}
        check_content(checkpoint.folder, wanted)
    except DamagedError as error:
        return str(error)
    return None


def newest(
    folder: Path, world_size: int, layout: Mapping[str, Any], check: Check = damage
) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, and a note for each newer one that is passed over.

    Raises:
        StageError: it was written by another number of ranks, or under another layout of their state.
    """
    notes: list[str] = []
    for path in _published(folder):
        found = _read(path)
        if isinstance(found, Checkpoint):
            _require_loadable(found, world_size, layout)
        found = _checked(found, check)
        if isinstance(found, Checkpoint):
            return found, notes
        notes.append(f"checkpoint {path.name} is damaged and passed over: {found}")
    return None, notes


def _require_loadable(found: Checkpoint, world_size: int, layout: Mapping[str, Any]) -> None:
    start_over = f"or delete the folder {found.folder.parent} to start over."
    if found.world_size != world_size:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"checkpoint {found.folder.name} was written by {found.world_size} processes; this run has {world_size}, "
            "and DeepSpeed cannot share out its optimizer state anew",
            reason="WorldSizeChanged",
            hint=f"Train with {found.world_size} processes in all (`nodes` times `gpusPerNode` or "
            f"`processesPerNode`), {start_over}",
        )
    if found.layout != layout:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"checkpoint {found.folder.name} was written with {_words(found.layout)}; this run has {_words(layout)}, "
            "and DeepSpeed would load its optimizer state into the wrong places",
            reason="StateLayoutChanged",
            hint=f"Set {_words(found.layout)} in `deepspeed.config.zero_optimization` again, {start_over}",
        )


def _words(layout: Mapping[str, Any]) -> str:
    return " and ".join(f"`{name}: {json.dumps(value)}`" for name, value in layout.items())


def of_step(folder: Path, step: int, check: Check = damage) -> Checkpoint | str:
    """Return the checkpoint of a step, or what is wrong with it."""
    return _checked(_read(folder / f"step-{step}"), check)


def _checked(found: Checkpoint | str, check: Check) -> Checkpoint | str:
    return found if isinstance(found, str) else check(found) or found


def prune(folder: Path, step: int, keep: int, spared: int | None = None) -> None:
    """Remove all but the newest `keep` checkpoints up to step `step`, the one just written, and that of step `spared`.

    Later ones can only be damaged ones that were passed over; they make no room for themselves by pushing good ones
    out, and are replaced when their step is reached.
    """
    for path in folder.glob("step-*.broken-*"):  # a damaged one that the one just written has replaced
        shutil.rmtree(path, ignore_errors=True)
    older = [path for path in _published(folder) if _step(path) <= step]
    for path in older[keep:]:
        if _step(path) == spared:
            continue
        shutil.rmtree(path, ignore_errors=True)


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint that is published, whole or not; 0: there is none."""
    return max(map(_step, _published(folder)), default=0)


def _published(folder: Path) -> list[Path]:
    """Return the checkpoints' folders, newest step first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _PUBLISHED.fullmatch(path.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
