"""How one unit is made: in a folder of the attempt's own, published whole, cleared up behind whoever failed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import shutil
import time
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import RECIPES, Failure, StageName, StageResult, manifest_digest
from tunesmith_stages.preconditions import patience_with, require_inputs
from tunesmith_stages.progress import now_text
from tunesmith_stages.volume import files_below, manifest_of, publish, write_whole
from tunesmith_stages.work import StageFunction, StillTrue, Work

log = logging.getLogger(__name__)


def find_or_make(work: Work, make: StageFunction, still_true: StillTrue | None) -> tuple[StageResult, bool]:
    """Return the result of a unit, and whether it was there already."""
    stage, key = work.config.stage, work.unit.key
    found = None if stage is StageName.REHEARSE else work.volume.result(stage, key)
    if found is not None and still_true is None:
        log.info("%s %s: done already (%s)", stage, work.unit.name, key[:12])
        return found, True
    _begin(work)
    if found is not None and still_true is not None:
        if still_true(work, found):
            shutil.rmtree(work.folder, ignore_errors=True)
            return found, True
        work.volume.forget(stage, key)
    require_inputs(work.volume, work.unit, work.progress, patience_with(work.volume.root))
    return _make(work, make), False


def _begin(work: Work) -> None:
    """Make the attempt's folder, after clearing up what others at the same unit left."""
    _sweep(work)
    work.folder.mkdir(parents=True)
    write_whole(work.folder / "owner.json", json.dumps(process_of(os.getpid())))
    work.out.mkdir()
    work.logs.mkdir()
    write_whole(work.folder / "stage.json", work.config.to_json())


def _make(work: Work, make: StageFunction) -> StageResult:
    """Make a unit and publish it; if another attempt was first, its result is returned."""
    stage, unit, volume = work.config.stage, work.unit, work.volume
    started = now_text()
    clock = time.monotonic()
    made = make(work)
    if made.stored is None:
        total = sum(path.stat().st_size for path in files_below(work.out))
        files = manifest_of(work.out, work.progress.counter(total, "bytes hashed") if total > 1 << 30 else None)
        path = volume.unit(stage, unit.key) / "out"
    else:
        files, path = made.files, made.stored
    result = StageResult(
        stage=stage,
        unit=unit.name,
        key=unit.key,
        recipe=RECIPES[stage],
        digest=manifest_digest(files),
        path=volume.relative(path),
        files=files,
        outputs=made.outputs,
        numbers={**made.numbers, "seconds": round(time.monotonic() - clock, 3)},
        tools=made.tools,
        started=started,
        finished=now_text(),
    )
    write_whole(work.folder / "result.json", result.to_json())
    if stage is StageName.REHEARSE:
        shutil.rmtree(volume.unit(stage, unit.key), ignore_errors=True)
    ours = publish(work.folder, volume.unit(stage, unit.key), lambda: volume.result(stage, unit.key) is not None)
    if made.scratch is not None:
        shutil.rmtree(made.scratch, ignore_errors=True)
    return result if ours else volume.result(stage, unit.key) or result


_KEPT_OF_A_FAILED_ATTEMPT = frozenset({"stage.json", "logs", "progress.jsonl", "failure.json", "owner.json"})


def _sweep(work: Work) -> None:
    """Remove what attempts that died half-way left behind, but for what tells why.

    An attempt on another host may live, unless it was made for the same as this one by an operator: that has one pod
    at a time at work on it.
    """
    stage, key = work.config.stage, work.unit.key
    ours = made_for(stage, work.config.attempt)
    for folder in work.volume.attempts(stage, key):
        try:
            owner = json.loads((folder / "owner.json").read_text())
        except (OSError, ValueError):
            continue
        here = owner["host"] == platform.node()
        if here and owner == process_of(owner["pid"]):
            continue
        if here or (ours and ours == made_for(stage, folder.name.removeprefix(f"{key}."))):
            clear(folder)


def made_for(stage: StageName, attempt: str) -> str:
    """Return what the names of all attempts have in common that an operator makes for the same; empty for others.

    They are named by pods, ``<job>-<stage>-<digest>-<number>[-<node>]-<random>``, or, if pods work together, by their
    Job: ``<job>-<stage>-<digest>-<number>[-<time that it was taken up>]``. The digest is of the FineTuneJob's uid, the
    stage and the keys of what is missing.
    """
    named = re.fullmatch(rf"(.+-{stage}-[0-9a-f]{{8}})-[0-9]+(-[0-9]+)?(-[0-9a-z]{{5}})?", attempt)
    return named[1] if named else ""


def clear(folder: Path) -> None:
    """Remove what a failed attempt made, for it may be large, but for what tells why it failed.

    What cannot be removed stays: NFS keeps a file that is open somewhere, as ``.nfs*``.
    """
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if path.name not in _KEPT_OF_A_FAILED_ATTEMPT]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def process_of(pid: int) -> dict[str, Any]:
    """Return what identifies a process on this machine: its number alone may have been given to another since."""
    try:
        # proc(5): field 22 is the start time in clock ticks since boot; field 2, the name, may hold blanks.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = ""
    return {"host": platform.node(), "pid": pid, "started": started}


def leave(folder: Path, failure: Failure) -> None:
    """Leave ``failure.json`` in the attempt's folder, if that is possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "failure.json", failure.to_json())
    except (OSError, ValueError) as error:  # the disk may be what failed, or a name in it; the exit code still tells
        log.warning("failure.json could not be written: %s", error)
