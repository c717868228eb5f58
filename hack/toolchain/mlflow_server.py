"""Installs the pinned MLflow into an environment of its own, for tests to send to a real server.

    python hack/toolchain/mlflow_server.py

Tunesmith itself needs none of it. ``mlflow_server.txt`` holds the hash of everything.
"""

from __future__ import annotations

import re
import sys
import venv
from pathlib import Path

from making import is_whole, make_once, run_main

from tunesmith_stages.tools import run_tool, toolchain_folder

REQUIREMENTS = Path(__file__).with_suffix(".txt")


def folder() -> Path:
    """Return the environment's folder, made or not."""
    return toolchain_folder() / f"mlflow-{_version()}"


def python() -> Path:
    """Return the interpreter with which ``-m mlflow server`` runs, installed or not."""
    return folder() / "bin" / "python"


def ensure() -> Path:
    """Return that interpreter, installed first if need be.

    Raises:
        StageError: it cannot be installed.
    """
    if not is_whole(folder()):
        make_once(folder(), _version(), "a minute or two", _make)
    return python()


def _version() -> str:
    found = re.search(r"^mlflow==([0-9.]+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None  # noqa: S101 - it is the one that the file is for
    return found[1]


def _make(_work: Path, prefix: Path, log: Path) -> None:
    venv.create(prefix)
    pip = [sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"), "install", "--quiet"]
    run_tool([*pip, "--require-hashes", "--requirement", str(REQUIREMENTS)], log, what="to install MLflow")


def main() -> int:
    """Install it and print where it is."""
    print(ensure())
    return 0


if __name__ == "__main__":
    run_main(main)
