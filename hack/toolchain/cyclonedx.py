"""Installs the pinned tool of CycloneDX into an environment of its own, for ``hack/release/sbom.py``.

    python hack/toolchain/cyclonedx.py

Tunesmith itself needs none of it. ``cyclonedx.txt`` holds the hash of everything.
"""

from __future__ import annotations

from pathlib import Path

from environments import Environment
from making import run_main

CYCLONEDX = Environment("cyclonedx", Path(__file__).with_suffix(".txt"), "cyclonedx-bom", "half a minute")


def main() -> int:
    """Install it and print where it is."""
    print(CYCLONEDX.ensure())
    return 0


if __name__ == "__main__":
    run_main(main)
