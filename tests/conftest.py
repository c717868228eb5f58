"""What holds for every test."""

from __future__ import annotations

import gc
import os
import signal

import pytest

# Tests run side by side, one on each core. Threads of OpenMP beyond that wait for each other by spinning, each on the
# core that the other needs: what takes half a minute took three.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Let the programs that tests start hear signals, also where whoever started the tests lets them be ignored.

    A shell does so for what runs in the background, `nohup` too; a program begins with what its starter ignores. What
    its starter handles, as is done here, it begins with as usual.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the garbage collector the modules and the tests: they stay to the end, and are most of what there is."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let it find them again, for libraries that look for leaks at the end."""
    gc.unfreeze()
