"""One rank, started by torchrun: ``python -m tunesmith_stages.train.worker <attempt folder>``."""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from tunesmith_stages.contract import ExitCode, Failure, StageConfig
from tunesmith_stages.failures import blame_full_disk
from tunesmith_stages.program import Progress, Work, classify
from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.launch import LAUNCHER_VARIABLE
from tunesmith_stages.train.lifeline import die_with
from tunesmith_stages.train.stillness import TELL_WHERE
from tunesmith_stages.volume import Volume

_LOST_READER = re.compile(r"DataLoader worker \(pid.*exited unexpectedly")


def main() -> None:
    """Train as one rank and exit; leave the reason where that fails."""
    folder = Path(sys.argv[1])
    rank = int(os.environ["RANK"])
    die_with(int(os.environ[LAUNCHER_VARIABLE]))
    _write_output_to(folder / "logs" / f"rank-{rank}.log")
    faulthandler.register(TELL_WHERE)
    os.umask(0o002)
    exchange = Exchange(folder)
    code = ExitCode.OK
    try:
        from tunesmith_stages.train.session import run_rank

        run_rank(_work(folder), exchange)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is to know
        failure = blame_full_disk(failure_of(error), Volume(folder))  # now, while it is: the parent makes room
        code = failure.code
        with suppress(OSError):  # a full disk takes no explanation; the exit code still tells
            exchange.leave_exit(rank, failure)
        with suppress(OSError):
            traceback.print_exc()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # an orderly end would wait for peers that may be gone


def _write_output_to(path: Path) -> None:
    """Send what this process and the libraries in it print, in Python or C, to the rank's own log."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o664)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _work(folder: Path) -> Work:
    config = StageConfig.from_json((folder / "stage.json").read_text(encoding="utf-8"))
    unit = config.units[0]
    return Work(config, unit, Volume(Path(config.volume)), folder, Progress(config.stage, unit.name, folder))


def failure_of(error: BaseException) -> Failure:
    """Return what an error in a rank means; of a process that read rows for it, how that one ended."""
    if error.__cause__ is not None and _LOST_READER.search(str(error)):
        error = error.__cause__
    return classify(error)


if __name__ == "__main__":
    main()
