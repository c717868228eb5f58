"""Installs the pinned SDK of Grafana into an environment of its own: for a test to read the chart's dashboard with it.

    python hack/toolchain/grafana_sdk.py

Tunesmith itself needs none of it. ``grafana_sdk.txt`` holds the hash.
"""

from __future__ import annotations

from pathlib import Path

from environments import Environment
from making import run_main

GRAFANA_SDK = Environment("grafana-sdk", Path(__file__).with_suffix(".txt"), "grafana-foundation-sdk")


def main() -> int:
    """Install it and print where it is."""
    print(GRAFANA_SDK.ensure())
    return 0


if __name__ == "__main__":
    run_main(main)
