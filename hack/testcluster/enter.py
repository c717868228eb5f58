"""Runs a command inside the test cluster's network, where the addresses of services and pods can be reached.

    python hack/testcluster/enter.py [--name CLUSTER] COMMAND ...

Files and processes are those of the machine, as outside. KUBECONFIG is the administrator's, and kubectl is on PATH.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "toolchain"))

from layout import Layout
from making import run_main
from programs import kubernetes
from running import is_up, running

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError


def main() -> int:
    """Become the command in the arguments."""
    parser = argparse.ArgumentParser(description="Run a command inside the test cluster's network.")
    parser.add_argument(
        "--name", default=Layout.name, metavar="CLUSTER", help="which test cluster (default: %(default)s)"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="with its arguments")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("no COMMAND given")
    layout = Layout(arguments.name)
    if not is_up(layout):
        raise StageError(
            ExitCode.MISSING_INPUT, "the test cluster is not up", reason="ClusterDown", hint="Run `make cluster`."
        )
    path = f"{kubernetes('kubectl').parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environ = {**os.environ, "KUBECONFIG": str(layout.inner_kubeconfig), "PATH": path}
    command = ["nsenter", f"--target={running(layout)}", "--net", "--", *arguments.command]
    os.execvpe(command[0], command, environ)  # noqa: S606 - becoming the command is the point


if __name__ == "__main__":
    run_main(main)
