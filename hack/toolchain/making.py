"""How a tool gets into the toolchain folder: made once, whole or not at all, by one process at a time.

Shared by ``llama_cpp.py`` and ``ollama.py``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError


def is_whole(folder: Path) -> bool:
    """Tell whether `folder` was made to its end: VERSION is written last."""
    return (folder / "VERSION").is_file()


def make_once(folder: Path, version: str, expect: str, make: Callable[[Path, Path, Path], None]) -> None:
    """Have `folder` made unless it is there. Who comes second waits for the first.

    Args:
        folder: what is wanted; appears by a rename, whole.
        version: the line written into its VERSION.
        expect: how long it takes, for people.
        make: called with a work folder, the folder to fill, and a log file. The work folder always has the same
            path (a compiler cache then finds its entries again) and survives an interrupted build, which goes on
            there. A failed build is cleared away.

    Raises:
        StageError: `make` failed; the message names the log.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work, log = folder.parent / f".{folder.name}.building", folder.parent / f"{folder.name}.log"
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        _wait_for(lock.fileno(), folder)
        if is_whole(folder):
            return
        tell(f"{folder.name}: building in {folder.parent} ({expect}; log: {log})")
        begun = time.monotonic()
        prefix = work / "prefix"
        shutil.rmtree(prefix, ignore_errors=True)
        prefix.mkdir(parents=True)
        log.write_bytes(b"")
        try:
            make(work, prefix, log)
        except StageError as error:
            shutil.rmtree(work, ignore_errors=True)
            hint = f"{error.hint}\nThe whole log: {log}"
            raise StageError(error.code, error.message, reason=error.reason, hint=hint) from error
        (prefix / "VERSION").write_text(f"{version}\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        prefix.rename(folder)
        shutil.rmtree(work)
        tell(f"{folder.name}: built in {time.monotonic() - begun:.0f} s")


def _wait_for(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell(f"{folder.name}: another process is building it; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def check_go(what: str, instead: str = "") -> None:
    """Refuse to start a build that would end for want of Go.

    Args:
        what: is to be built.
        instead: what else would do, for the hint.

    Raises:
        StageError: there is no Go.
    """
    if not shutil.which("go"):
        go = "Go 1.26 or newer (see go.dev/doc/install)."
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"{what} cannot be built: there is no `go` on PATH",
            reason="GoMissing",
            hint=f"{instead} Or install {go}" if instead else f"Install {go}",
        )


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def tell(line: str) -> None:
    """Say something to the person who waits; on stderr, because stdout carries answers."""
    print(line, file=sys.stderr, flush=True)


def run_main(main: Callable[[], int]) -> None:
    """End the program with what `main` returns, or with a StageError's sentence, hint and exit code."""
    try:
        sys.exit(main())
    except StageError as error:
        tell(f"error: {error.message}\n{error.hint}")
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(130)
