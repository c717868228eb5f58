"""Keeps what a program and its children print in a file as well, C libraries and crashes included."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 3.0
"""How long the last lines may take to get there. A child that still lives would hold the log open for ever."""


@contextmanager
def kept_log(path: Path) -> Iterator[None]:
    """Append what is printed in the block to `path`, too.

    A process of its own copies: it goes on while this one computes without letting Python run, and it has the last
    words of a crash. At the end its work is waited for, since in a container everything ends with process 1. If the
    copying cannot begin, the block runs without it.
    """
    console, errors = os.dup(1), os.dup(2)
    tee = _copying_to(path, console, errors)
    try:
        yield
    finally:
        _flush()
        os.dup2(console, 1)  # with these two the last of our own ends of the pipe is closed
        os.dup2(errors, 2)
        os.close(console)
        os.close(errors)
        if tee is not None:
            with suppress(subprocess.TimeoutExpired):
                tee.wait(_FLUSH_SECONDS)


def _copying_to(path: Path, console: int, errors: int) -> subprocess.Popen[bytes] | None:
    """Send stdout and stderr through a process that copies them to `path` and to `console`."""
    _flush()
    reading, writing = os.pipe()
    argv = ["tee", "-a", "--", str(path)]
    try:
        tee = subprocess.Popen(argv, stdin=reading, stdout=console, stderr=errors, start_new_session=True)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
    except OSError as error:
        log.warning("no log is kept in %s: %s", path, error)
        return None
    finally:
        os.close(reading)
        os.close(writing)
    return tee


def _flush() -> None:
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
