"""Installs the pinned mfusepy into an environment of its own, with FUSE from Debian: for tests to mount a failing disk.

    python hack/toolchain/fuse.py

Tunesmith itself needs none of it. ``fuse.txt`` holds the hashes.
"""

from __future__ import annotations

from pathlib import Path

from debian_packages import ensure_packages
from environments import Environment
from making import run_main

MFUSEPY = Environment("mfusepy", Path(__file__).with_suffix(".txt"), "mfusepy")


def ensure() -> Path:
    """Return the interpreter that knows mfusepy, installed first if need be.

    Raises:
        StageError: it, or FUSE, cannot be installed.
    """
    ensure_packages("mounting a failing disk", ("fusermount3",), hint="Install FUSE 3.")
    return MFUSEPY.ensure()


def main() -> int:
    """Install it and print where it is."""
    print(ensure())
    return 0


if __name__ == "__main__":
    run_main(main)
