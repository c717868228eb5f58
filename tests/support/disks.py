"""A small file system of a test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of `size`, as ``16m``, in a new folder until the block ends."""
    if os.geteuid() != 0:
        pytest.fail(
            "this test mounts a small file system: run it as root, or put `unshare -rm` before the command "
            "(`unshare -rm .venv/bin/python -m pytest tests/e2e/...`)"
        )
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
