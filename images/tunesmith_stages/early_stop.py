"""Lets a stage program be stopped before it has begun: while Python still reads what the program needs.

Linux gives process 1 of a container no signal that it has no handler for (pid_namespaces(7)). A SIGTERM in the first
moments would be lost, and the program would go on until it is killed. So each program calls :func:`stop_at_once` before
it imports anything else, and this module imports next to nothing.
"""

import os
import signal
from types import FrameType

_INTERRUPTED = 81  # ExitCode.INTERRUPTED: to import the contract takes as long as all before it


def stop_at_once() -> None:
    """Have SIGTERM and Ctrl-C end this process at once, as one that was interrupted, until other handlers are set."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    """End without an exception: it would be raised in the middle of a library's import, where it may be caught."""
    os.write(2, f"Interrupted: stopped by {signal.Signals(number).name} before it began\n".encode())
    os._exit(_INTERRUPTED)
