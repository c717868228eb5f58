"""What holds for every test."""

from __future__ import annotations

import gc

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the garbage collector the modules and the tests: they stay to the end, and are most of what there is."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let it find them again, for libraries that look for leaks at the end."""
    gc.unfreeze()
