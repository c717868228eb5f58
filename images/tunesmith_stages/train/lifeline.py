"""Ties a process to the one that started it. Linux only; elsewhere it does nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """End this process at once when the process `parent`, which started it, ends in whatever way.

    A parent killed with -9 cannot tell its children. A rank left behind would hold memory and GPUs, and could write
    into a folder that the next attempt believes to be its own. In a container `parent` may well be process 1, which
    elsewhere adopts orphans: its end is the end of the container.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the request above took effect
            os.kill(os.getpid(), signal.SIGKILL)
