"""Ends the test cluster. Nothing of it stays but its images, its logs, and with --purge not even those.

python hack/testcluster/down.py [--name CLUSTER] [--purge]
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "toolchain"))

from layout import Layout
from making import run_main, tell
from running import alone
from up import clear


def main() -> int:
    """End the cluster that the arguments name."""
    parser = argparse.ArgumentParser(description="End the test cluster.")
    parser.add_argument(
        "--name", default=Layout.name, metavar="CLUSTER", help="which test cluster (default: %(default)s)"
    )
    parser.add_argument("--purge", action="store_true", help="remove its images and logs, too")
    arguments = parser.parse_args()
    layout = Layout(arguments.name)
    with alone(layout):
        clear(layout)
        if arguments.purge:
            shutil.rmtree(layout.state)
    tell("the test cluster is down")
    return 0


if __name__ == "__main__":
    run_main(main)
