"""Installs the pinned tool of CycloneDX into an environment of its own, for ``hack/release/sbom.py``.

    python hack/toolchain/cyclonedx.py

Tunesmith itself needs none of it. ``cyclonedx.txt`` holds the hash of everything.
"""

from __future__ import annotations

import re
import sys
import venv
from pathlib import Path

from making import is_whole, make_once, run_main

from tunesmith_stages.tools import run_tool, toolchain_folder

REQUIREMENTS = Path(__file__).with_suffix(".txt")


def ensure() -> Path:
    """Return the folder ``bin`` with ``cyclonedx-py`` and the Python that has its library, installed first if need be.

    Raises:
        StageError: it cannot be installed.
    """
    folder = toolchain_folder() / f"cyclonedx-{_version()}"
    if not is_whole(folder):
        make_once(folder, _version(), "half a minute", _make)
    return folder / "bin"


def _version() -> str:
    found = re.search(r"^cyclonedx-bom==([0-9.]+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None  # noqa: S101 - it is the one that the file is for
    return found[1]


def _make(_work: Path, prefix: Path, log: Path) -> None:
    venv.create(prefix)
    pip = [sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"), "install", "--quiet"]
    run_tool([*pip, "--require-hashes", "--requirement", str(REQUIREMENTS)], log, what="to install CycloneDX")


def main() -> int:
    """Install it and print where it is."""
    print(ensure())
    return 0


if __name__ == "__main__":
    run_main(main)
