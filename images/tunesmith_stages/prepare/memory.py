"""Keeps what strangers wrote from filling the memory: what asks for more than it may have gets a MemoryError."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Limit = tuple[int, int]
"""Of the process's data in bytes, soft and hard (setrlimit(2), RLIMIT_DATA)."""


def limit_above_now(more: int) -> Limit:
    """Return the limit by which the process could have so many bytes more than it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    except OSError:  # no Linux
        return soft, hard
    most = pages * resource.getpagesize() + more
    return most if soft == resource.RLIM_INFINITY else min(soft, most), hard


@contextmanager
def limited_memory(limit: Limit) -> Iterator[None]:
    """Keep to a limit in what the block runs; it holds for the whole process."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, limit)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
