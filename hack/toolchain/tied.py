"""Ties a program to the one that starts it: when the starter dies, however it dies, the program gets a SIGTERM.

Used by the builds and by ``serve_ollama.py``, so that a killed build or demo leaves nothing running. It is a small
program of its own that asks Linux for the signal and then becomes the tied one (the wish survives ``exec``); doing the
same between fork and exec inside the starter would run Python there, which is unsafe once it has threads. Linux sends
the signal when the starting *thread* ends: start tied programs from a thread that lives as long as they may.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def tied(argv: Sequence[str | Path]) -> list[str]:
    """Return the command that runs `argv` tied to the calling process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *(str(part) for part in argv)]


def main() -> int:
    """Become the program in the arguments; returns only if that fails."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever the starter had blocked while it started this
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM  # it died before the tie held
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the program is the point
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
    return 127


if __name__ == "__main__":
    sys.exit(main())
