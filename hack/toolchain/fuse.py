"""Installs the pinned mfusepy into an environment of its own, with FUSE from Debian: for tests to mount a failing disk.

    python hack/toolchain/fuse.py

Tunesmith itself needs none of it. ``fuse.txt`` holds the hashes.
"""

from __future__ import annotations

import re
import sys
import venv
from pathlib import Path

from debian_packages import ensure_packages
from making import is_whole, make_once, run_main

from tunesmith_stages.tools import run_tool, toolchain_folder

REQUIREMENTS = Path(__file__).with_suffix(".txt")


def ensure() -> Path:
    """Return the interpreter that knows mfusepy, installed first if need be.

    Raises:
        StageError: it cannot be installed.
    """
    ensure_packages("mounting a failing disk", ("fusermount3",), hint="Install FUSE 3.")
    found = re.search(r"^mfusepy==([0-9.]+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None  # noqa: S101 - it is the one that the file is for
    folder = toolchain_folder() / f"mfusepy-{found[1]}"
    if not is_whole(folder):
        make_once(folder, found[1], "some seconds", _make)
    return folder / "bin" / "python"


def _make(_work: Path, prefix: Path, log: Path) -> None:
    venv.create(prefix)
    pip = [sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"), "install", "--quiet"]
    run_tool([*pip, "--require-hashes", "--requirement", str(REQUIREMENTS)], log, what="to install mfusepy")


def main() -> int:
    """Install it and print where it is."""
    print(ensure())
    return 0


if __name__ == "__main__":
    run_main(main)
