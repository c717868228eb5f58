"""Installs the pinned MLflow into an environment of its own, for tests to send to a real server.

    python hack/toolchain/mlflow_server.py

Tunesmith itself needs none of it. ``mlflow_server.txt`` holds the hash of everything.
"""

from __future__ import annotations

from pathlib import Path

from environments import Environment
from making import run_main

MLFLOW = Environment("mlflow", Path(__file__).with_suffix(".txt"), "mlflow", "a minute or two")


def main() -> int:
    """Install it and print where it is."""
    print(MLFLOW.ensure())
    return 0


if __name__ == "__main__":
    run_main(main)
