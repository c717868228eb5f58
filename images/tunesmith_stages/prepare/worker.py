"""What one of the processes of :mod:`.workers` does: the tasks that come through its pipe, until that ends.

It gives back ``(number, result, None)`` for each, or ``(number, None, Failure)``.
"""

from __future__ import annotations

import gc
import signal
import threading
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from tunesmith_stages.contract import ExitCode, Failure
from tunesmith_stages.program import classify, die_with_parent

STOPS = frozenset({signal.SIGTERM, signal.SIGINT})
"""Signals that are blocked while a process is forked: the parent's handlers are not for it."""
_OBJECTS = 50_000
"""After so many new ones garbage is looked for: some thousand rows' work, which rarely makes any."""
_Tasks = SimpleQueue[tuple[int, Any] | None]


def work(function: Callable[[Any], Any], pipe: Connection, not_ours: Iterable[Connection]) -> None:
    """Do the tasks that come through `pipe`, just after the fork; `not_ours` are ends of pipes that it brought."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, too, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    die_with_parent()
    for other in not_ours:
        other.close()
    gc.freeze()  # what the parent has made stays: to look through it would copy its pages, and take time
    gc.set_threshold(_OBJECTS)
    tasks: _Tasks = SimpleQueue()
    threading.Thread(target=_read, args=(pipe, tasks), daemon=True).start()
    while (item := tasks.get()) is not None:
        number, task = item
        try:
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
