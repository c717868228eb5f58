"""Prints what the stage programs of a job have printed, from the volume: also when nothing of the job runs any more.

``python -m tunesmith_stages.logs --volume V --job NAME`` prints every log that was kept, the oldest first; ``--stage``
and ``--attempt`` choose, ``--tail`` shortens, and ``--list`` says which there are. It writes nothing.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

import argparse
import re
import shutil
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import escape
from pathlib import Path
from typing import BinaryIO

from tunesmith_stages.contract import ExitCode, Failure, StageName
from tunesmith_stages.failures import StageError
from tunesmith_stages.preconditions import require_volume
from tunesmith_stages.printing import name, printed
from tunesmith_stages.volume import Volume

_FILE = re.compile(rf"({'|'.join(StageName)})\.(.+?)(?:\.node-([1-9][0-9]*))?\.log")


@dataclass(frozen=True)
class KeptLog:
    """What one try of a stage printed, on one node."""

    stage: StageName
    attempt: str
    node: int
    path: Path
    time: float
    """When it was last written to, in seconds since the epoch."""
    size: int

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"{self.stage} {self.attempt}" + (f" node {self.node}" if self.node else "")


def kept_logs(volume: Volume, job: str, *, stage: str | None, attempt: str | None) -> list[KeptLog]:
    """Return the logs of a job that match, the oldest first.

    Raises:
        StageError: there is none.
        UnsafePathError: the folder of the logs, or one of them, is a link that leads out of the volume.
    """
    folder = volume.resolve(volume.relative(volume.logs(job)))
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        named = _FILE.fullmatch(path.name)
        if named is None or (stage and named[1] != stage) or not _is_of(named[2], attempt):
            continue
        place = volume.resolve(volume.relative(path))
        seen = place.stat()
        found.append(KeptLog(StageName(named[1]), named[2], int(named[3] or 0), place, seen.st_mtime, seen.st_size))
    if not found:
        which = (f" of the stage {stage}" if stage else "") + (f" of the attempt {attempt}" if attempt else "")
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"no log{which} of the job {job!r} is on the volume ({folder})",
            reason="LogNotFound",
            hint="`--list` says which there are; a stage whose results were there already has none.",
        )
    return sorted(found, key=lambda kept: (kept.time, kept.node))


def _is_of(name: str, attempt: str | None) -> bool:
    """Tell whether an attempt is the one that is asked for: by its own name, or by that of the Job that made it."""
    return attempt is None or name == attempt or name.startswith(f"{attempt}-")


def outcome(volume: Volume, kept: KeptLog) -> str:
    """Return why an attempt failed, in one word, or "-": it ended well, goes on, or left nothing."""
    for folder in volume.units(kept.stage).glob(f"*.{escape(kept.attempt)}"):
        try:
            text = volume.resolve(volume.relative(folder / "failure.json")).read_text(encoding="utf-8")
            return Failure.from_json(text).reason
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "-"


def print_list(volume: Volume, logs: Sequence[KeptLog]) -> None:
    """Print a table of logs."""
    rows = [("STAGE", "ATTEMPT", "NODE", "LAST WRITTEN", "BYTES", "FAILURE")]
    for kept in logs:
        time = datetime.fromtimestamp(kept.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows.append((kept.stage, kept.attempt, str(kept.node), time, str(kept.size), outcome(volume, kept)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_logs(logs: Sequence[KeptLog], tail: int | None, to: BinaryIO) -> None:
    """Print logs as they are, each under a line with its name if there are several."""
    for kept in logs:
        if len(logs) > 1:
            to.write(f"==> {kept.title} <==\n".encode())
        with kept.path.open("rb") as file:
            if tail is None:
                shutil.copyfileobj(file, to)
            else:
                to.writelines(deque(file, maxlen=tail))
        to.flush()


def main() -> int:
    """Print what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="tunesmith_stages.logs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--volume", required=True, type=Path, help="the volume's root")
    parser.add_argument("--job", required=True, type=name, help="name of the FineTuneJob")
    parser.add_argument("--stage", choices=list(StageName))
    parser.add_argument("--attempt", type=name, help="its name, or that of the Kubernetes Job that made it")
    parser.add_argument("--list", action="store_true", help="say which logs there are")
    parser.add_argument("--tail", type=_count, metavar="N", help="only the last N lines of each")
    arguments = parser.parse_args()
    volume = Volume(arguments.volume)

    def write() -> None:
        require_volume(volume)
        logs = kept_logs(volume, arguments.job, stage=arguments.stage, attempt=arguments.attempt)
        if arguments.list:
            print_list(volume, logs)
        else:
            print_logs(logs, arguments.tail, sys.stdout.buffer)

    return printed(write)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of lines, 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
