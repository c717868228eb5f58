"""The frame in which every stage program runs: arguments, progress, results, failures.

A stage is a function from a :class:`Work` (one unit, its folder, its inputs) to a :class:`Made`. :func:`main` reads
``stage.json``, calls that function for every unit that has no result yet, and publishes what it made. Whatever goes
wrong ends as ``failure.json``, one sentence on stderr and an exit code of :class:`ExitCode`.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import logging
import os
import platform
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tunesmith_stages.contract import (
    FAILURE_CLASSES,
    RECIPES,
    ExitCode,
    Failure,
    FileEntry,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
    manifest_digest,
)
from tunesmith_stages.volume import UnsafePathError, Volume, files_below, manifest_of, publish, write_whole

log = logging.getLogger(__name__)

_FULL = 4 * 1024 * 1024  # bytes: a volume with less is full


class StageError(Exception):
    """A stage cannot go on. Says why in words for the person who wrote the job.

    Attributes:
        code: class of the failure, which is also the exit code.
        reason: one CamelCase word; the class's own where none is given.
        message: what happened and where (file and row, field, server), and what would be allowed.
        hint: what to do next; the class's own where none is given.
    """

    def __init__(self, code: ExitCode, message: str, *, reason: str = "", hint: str = "") -> None:
        super().__init__(message)
        kind = FAILURE_CLASSES[code]
        self.code = code
        self.reason = reason or kind.reason
        self.message = message
        self.hint = hint or kind.hint

    def failure(self) -> Failure:
        """Return the record that is left for the edge."""
        return Failure(self.code, self.reason, self.message, self.hint)


class InterruptedStage(BaseException):
    """Somebody asked the stage to stop. Not an `Exception`, so that no handler takes it for a fault of the data."""


class Progress:
    """Tells how far a unit is: one JSON line per event, on stdout and in the attempt's ``progress.jsonl``.

    A line holds ``time``, ``stage``, ``unit`` and any of ``done``, ``total``, ``of`` (what is counted: rows, bytes,
    steps), ``note`` (what is going on, a few words) and ``metrics`` (name to number). Counting lines come at most
    twice a second; notes and metrics always.
    """

    _INTERVAL = 0.5

    def __init__(self, stage: StageName, unit: str, folder: Path) -> None:
        self._stage = stage
        self._unit = unit
        self._file = folder / "progress.jsonl"
        self._last = 0.0

    def note(self, text: str) -> None:
        """Say what begins now."""
        self._emit({"note": text})

    def count(self, done: int, total: int, of: str, metrics: Mapping[str, float] | None = None) -> None:
        """Say how many of how many are done; with `metrics` the line is never left out."""
        now = time.monotonic()
        if metrics is None and done < total and now - self._last < self._INTERVAL:
            return
        self._last = now
        event: dict[str, Any] = {"done": done, "total": total, "of": of}
        if metrics is not None:
            event["metrics"] = dict(metrics)
        self._emit(event)

    def counter(self, total: int, of: str) -> Callable[[int], None]:
        """Return a function that is told of increments, as file copies and hashes want it."""
        done = 0

        def advance(increment: int) -> None:
            nonlocal done
            done += increment
            self.count(done, total, of)

        return advance

    def _emit(self, event: Mapping[str, Any]) -> None:
        line = json.dumps({"time": _now(), "stage": self._stage, "unit": self._unit, **event}, ensure_ascii=False)
        print(line, flush=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@dataclass(frozen=True)
class Work:
    """One unit of work and the place where it is made."""

    config: StageConfig
    unit: UnitConfig
    volume: Volume
    folder: Path
    """The attempt's folder, ``stages/<stage>/<key>.<attempt>``."""
    progress: Progress

    @property
    def out(self) -> Path:
        """Folder for what later stages read; everything in it is hashed into the result's digest."""
        return self.folder / "out"

    @property
    def logs(self) -> Path:
        """Folder for the logs of tools and for figures that people look at; not hashed."""
        return self.folder / "logs"

    @property
    def params(self) -> Mapping[str, Any]:
        """The unit's keyed parameters."""
        return self.unit.params

    @property
    def runtime(self) -> Mapping[str, Any]:
        """How it is to be made: enters no key."""
        return self.config.runtime

    def input(self, role: str) -> Path:
        """Return the folder of an input.

        Raises:
            StageError: it is not there.
        """
        path = self.volume.root / self.unit.inputs[role].path
        if not path.is_dir():
            raise StageError(
                ExitCode.MISSING_INPUT,
                f"the input `{role}` of stage {self.config.stage} is gone from the volume: {path}",
                hint="Run the job again: the stage that makes it will be repeated.",
            )
        return path


@dataclass(frozen=True)
class Made:
    """What a stage function made of a unit."""

    outputs: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    stored: Path | None = None
    """Folder in the store that holds what was made, if it is not the unit's own ``out/``."""
    files: tuple[FileEntry, ...] = ()
    """The files in `stored`."""
    scratch: Path | None = None
    """Folder that is of no use once the result is published (checkpoints); it is removed then, not before."""


StageFunction = Callable[[Work], Made]


def main(stage: StageName, make: StageFunction) -> NoReturn:
    """Run the stage program and exit."""
    parser = argparse.ArgumentParser(prog=f"tunesmith_stages.{stage}", description=(make.__doc__ or "").strip())
    parser.add_argument("--config", required=True, type=Path, metavar="stage.json", help="the stage's whole input")
    config_path: Path = parser.parse_args().config
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.umask(0o002)
    die_with_parent()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        config = StageConfig.from_json(config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{config_path}: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(ExitCode.BAD_CONFIG)
    sys.exit(run(config, make))


def run(config: StageConfig, make: StageFunction) -> ExitCode:
    """Make every unit of `config` that has no result yet; return the exit code."""
    volume = Volume(Path(config.volume))
    for unit in config.units:
        folder = volume.attempt(config.stage, unit.key, config.attempt)
        try:
            _make_unit(config, unit, volume, folder, make)
        except (Exception, InterruptedStage) as error:  # noqa: BLE001 - the one place where whatever went wrong becomes a failure
            failure = _blame_full_disk(classify(error), volume)
            _clear(folder)
            _leave(folder, failure)
            _say(traceback.format_exc() if failure.code is ExitCode.INTERNAL else "")
            _say(f"{failure.reason}: {failure.message}\n")
            return failure.code
    return ExitCode.OK


def _make_unit(config: StageConfig, unit: UnitConfig, volume: Volume, folder: Path, make: StageFunction) -> None:
    stage = config.stage
    if stage is not StageName.REHEARSE and volume.result(stage, unit.key) is not None:
        log.info("%s %s: done already (%s)", stage, unit.name, unit.key[:12])
        return
    started = _now()
    clock = time.monotonic()
    _sweep(volume, stage, unit.key)
    folder.mkdir(parents=True)
    write_whole(folder / "owner.json", json.dumps(_process(os.getpid())))
    for name in ("out", "logs"):
        (folder / name).mkdir()
    write_whole(folder / "stage.json", config.to_json())
    work = Work(config, unit, volume, folder, Progress(stage, unit.name, folder))
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
        finished=_now(),
    )
    write_whole(folder / "result.json", result.to_json())
    final = volume.unit(stage, unit.key)
    if stage is StageName.REHEARSE:
        shutil.rmtree(final, ignore_errors=True)
    publish(folder, final, lambda: volume.result(stage, unit.key) is not None)
    if made.scratch is not None:
        shutil.rmtree(made.scratch, ignore_errors=True)


_KEPT_OF_A_FAILED_ATTEMPT = frozenset({"stage.json", "logs", "progress.jsonl", "failure.json", "owner.json"})


def _sweep(volume: Volume, stage: StageName, key: str) -> None:
    """Remove what attempts that died half-way left behind, but for what tells why; those of other hosts stay."""
    for folder in volume.attempts(stage, key):
        try:
            owner = json.loads((folder / "owner.json").read_text())
        except (OSError, ValueError):
            continue
        if owner["host"] != platform.node() or owner == _process(owner["pid"]):
            continue
        _clear(folder)


def _clear(folder: Path) -> None:
    """Remove what a failed attempt made, for it may be large, but for what tells why it failed."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in _KEPT_OF_A_FAILED_ATTEMPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _process(pid: int) -> dict[str, Any]:
    """Return what identifies a process on this machine: its number alone may have been given to another since."""
    try:
        # proc(5): field 22 is the start time in clock ticks since boot; field 2, the name, may hold blanks.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = ""
    return {"host": platform.node(), "pid": pid, "started": started}


def classify(error: BaseException) -> Failure:
    """Return what an exception means to a person: every class of failure that is known, else an internal error."""
    if isinstance(error, StageError):
        return error.failure()
    if isinstance(error, InterruptedStage):
        return StageError(ExitCode.INTERRUPTED, str(error)).failure()
    if isinstance(error, UnsafePathError):
        hint = "Give a path below the volume's root, without links that lead elsewhere (`volume.path`)."
        return StageError(ExitCode.BAD_CONFIG, str(error), reason="UnsafePath", hint=hint).failure()
    if isinstance(error, MemoryError):
        return StageError(ExitCode.OUT_OF_MEMORY, "the program ran out of memory").failure()
    text = f"{type(error).__name__}: {error}"
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) or "No space left on device" in text:
        return StageError(ExitCode.NO_SPACE, text).failure()
    if isinstance(error, PermissionError):
        return StageError(ExitCode.NO_PERMISSION, text).failure()
    return StageError(ExitCode.INTERNAL, text).failure()


def _leave(folder: Path, failure: Failure) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "failure.json", failure.to_json())
    except OSError as error:  # the disk may be what failed; the exit code still tells
        log.warning("failure.json could not be written: %s", error)


def _blame_full_disk(failure: Failure, volume: Volume) -> Failure:
    """Return the failure as one of space, if nothing else is known and the volume is full to the brim.

    Not every library says why a write failed: torch.save ends in `basic_ios::clear: iostream error`.
    """
    free = shutil.disk_usage(volume.root).free
    if failure.code is not ExitCode.INTERNAL or free > _FULL:
        return failure
    last = failure.message.strip().splitlines()[-1]
    return StageError(
        ExitCode.NO_SPACE, f"the volume is full ({free:,} bytes are free); it ended with: {last}"
    ).failure()


def _say(text: str) -> None:
    """Write to stderr, which may itself go to the disk that is full: the exit code must still be ours."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - Python flushes it when it exits


def _interrupt(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise InterruptedStage(f"stopped by {signal.Signals(number).name}")


def die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the process that started this one dies, so that nothing is left running alone."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
