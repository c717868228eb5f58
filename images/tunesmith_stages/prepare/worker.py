"""One of the processes of :mod:`.workers`: ``python -m tunesmith_stages.prepare.worker <file descriptor>``.

It gets a pickled function through the pipe, then tasks with their numbers until the pipe ends. It gives back
``(number, result, None)`` for each, or ``(number, None, Failure)``.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from tunesmith_stages.contract import ExitCode, Failure
from tunesmith_stages.program import classify, die_with_parent

_Tasks = SimpleQueue[tuple[int, Any] | None]


def main() -> None:
    """Do the tasks that come through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, too, which ends us
    die_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pipe = Connection(int(sys.argv[1]))
    pickled = pipe.recv_bytes()
    tasks: _Tasks = SimpleQueue()
    threading.Thread(target=_read, args=(pipe, tasks), daemon=True).start()
    function: Callable[[Any], Any] | None = None
    while (item := tasks.get()) is not None:
        number, task = item
        try:
            function = function or pickle.loads(pickled)  # noqa: S301 - our own parent's
            result, failure = function(task), None
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent is to know
            result, failure = None, _told(error)
        pipe.send((number, result, failure))


def _read(pipe: Connection, tasks: _Tasks) -> None:
    """Take tasks from the pipe as they come: who gives them must never wait for one who waits to give back."""
    try:
        while True:
            tasks.put(pipe.recv())
    except (EOFError, OSError):
        tasks.put(None)


def _told(error: Exception) -> Failure:
    """Return what an error means; say where it arose if it should not have."""
    failure = classify(error)
    if failure.code is ExitCode.INTERNAL:
        traceback.print_exception(error)
    return failure


if __name__ == "__main__":
    main()
