"""A real MLflow server of the pinned version, on a loopback port of its own, with a database in a given folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil

from support.ports import free_port

sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))  # scripts, not a package that is installed

from mlflow_server import MLFLOW

_PATIENCE = 600.0
"""Seconds: its tables are made first, one change of their history after the other."""


@dataclass(frozen=True)
class RealMlflow:
    """A running server."""

    url: str

    def ask(self, what: str, **given: str) -> dict[str, Any]:
        """Ask for something by other means than the code under test."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self.url}/api/2.0/mlflow/{what}?{urlencode(given)}", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        """Return steps and values of a metric."""
        found = self.ask("metrics/get-history", run_id=run, metric_key=metric, max_results="10000")["metrics"]
        return sorted((int(item["step"]), float(item["value"])) for item in found)


@contextmanager
def real_mlflow(folder: Path) -> Iterator[RealMlflow]:
    """Run a server while the block runs."""
    port = free_port()
    places = [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--default-artifact-root={folder}/artifacts"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [MLFLOW.python, "-m", "mlflow", "server", *places, "--workers=1", f"--port={port}"],
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
        )
    server = RealMlflow(f"http://127.0.0.1:{port}")
    try:
        _wait_until_up(server, process, folder / "server.log")
        yield server
    finally:
        with suppress(psutil.NoSuchProcess):  # it has ended by itself, or one of them has, together with another
            for other in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    other.kill()
        process.kill()
        process.wait()


def _wait_until_up(server: RealMlflow, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            server.ask("experiments/get", experiment_id="0")
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        else:
            return
