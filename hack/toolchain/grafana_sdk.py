"""Installs the pinned SDK of Grafana into an environment of its own: for a test to read the chart's dashboard with it.

    python hack/toolchain/grafana_sdk.py

Tunesmith itself needs none of it. ``grafana_sdk.txt`` holds the hash.
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
    """Return the interpreter that knows ``grafana_foundation_sdk``, installed first if need be.

    Raises:
        StageError: it cannot be installed.
    """
    found = re.search(r"^grafana-foundation-sdk==([0-9.]+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None  # noqa: S101 - it is the one that the file is for
    folder = toolchain_folder() / f"grafana-sdk-{found[1]}"
    if not is_whole(folder):
        make_once(folder, found[1], "some seconds", _make)
    return folder / "bin" / "python"


def _make(_work: Path, prefix: Path, log: Path) -> None:
    venv.create(prefix)
    pip = [sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"), "install", "--quiet"]
    run_tool([*pip, "--require-hashes", "--requirement", str(REQUIREMENTS)], log, what="to install Grafana's SDK")


def main() -> int:
    """Install it and print where it is."""
    print(ensure())
    return 0


if __name__ == "__main__":
    run_main(main)
