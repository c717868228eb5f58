"""Runs work that needs torch and transformers, in forks of a process that has imported them.

Making the small model and converting it are two programs, of which each would take seconds to import what both need. A
process that has imported it, and done nothing with it, is forked for each: what one does with its libraries, and the
memory that it takes, is gone with it. (This process itself is not forked: had it computed anything, the threads that
computed would be missing in the fork, and it would wait for them for ever.)
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tunesmith_stages.program import die_with_parent
from tunesmith_stages.tools import require_success

_LIBRARIES = "tunesmith_stages.rehearse.libraries"
_WATCH_SECONDS = 0.25


def run_forked(
    main: Callable[[Path], int], task: Path, log_file: Path, *, what: str, watch: Callable[[], None] | None = None
) -> None:
    """Run a program's `main` on its task, as :func:`tunesmith_stages.tools.run_tool` runs a tool.

    Args:
        main: a function of a module; returns the exit code.
        task: what it is given.
        log_file: its output is appended to it.
        what: is being done, for people.
        watch: called a few times a second meanwhile.

    Raises:
        StageError: as there.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_LIBRARIES])
    process = context.Process(target=_as_a_tool, args=(main, task, log_file))
    process.start()
    try:
        process.join(_WATCH_SECONDS)
        while process.is_alive():
            if watch is not None:
                watch()
            process.join(_WATCH_SECONDS)
    except BaseException:
        process.kill()
        process.join()
        raise
    require_success(process.exitcode or 0, log_file, what)


def _as_a_tool(main: Callable[[Path], int], task: Path, log_file: Path) -> None:
    """Make a fork what a program is that was started: its output goes to a log, a signal ends it at once."""
    die_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Open until the end: what went wrong is written last.
    output = log_file.open("a", encoding="utf-8", buffering=1)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout = sys.stderr = output
    sys.exit(main(task))
