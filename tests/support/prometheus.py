"""A real Prometheus that scrapes what it is told, on a loopback port of its own, and promtool."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from support.chart import wait_until
from support.ports import free_port

sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))  # scripts, not a package that is installed

import prometheus
from tied import tied


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool to its end; both of its outputs are in `stdout`."""
    command = [prometheus.ensure() / "promtool", *arguments]
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@dataclass(frozen=True)
class RealPrometheus:
    """A running server."""

    url: str

    def ask(self, path: str, **given: str) -> Any:
        """Return `data` of what its API answers to GET.

        Raises:
            urllib.error.HTTPError: it refuses the question; a note has its words.
        """
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.url}/api/v1/{path}?{urlencode(given)}", timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode())
            raise

    def value(self, query: str) -> float | None:
        """Return the value of a query with one result now; None if it has none."""
        found = self.ask("query", query=query)["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None


@contextmanager
def real_prometheus(folder: Path, rules: Path, target: str, labels: Mapping[str, str]) -> Iterator[RealPrometheus]:
    """Run a server while the block runs. It scrapes and evaluates once a second.

    Args:
        folder: for its data, its configuration and its log.
        rules: file with the rules that it evaluates.
        target: host and port of what it scrapes, with `honorLabels` as the chart's ServiceMonitor says.
        labels: what a ServiceMonitor would give the target.
    """
    job = {"job_name": labels["job"], "honor_labels": True, "static_configs": [{"targets": [target], "labels": labels}]}
    often = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = {"global": often, "rule_files": [str(rules)], "scrape_configs": [job]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        program = prometheus.ensure() / "prometheus"
        process = subprocess.Popen(tied([program, *options, f"--web.listen-address={address}"]), stderr=log)
    server = RealPrometheus(f"http://{address}")

    def answers() -> bool:
        assert process.poll() is None, (folder / "prometheus.log").read_text(encoding="utf-8")
        try:
            return bool(server.ask("status/buildinfo"))
        except urllib.error.URLError:
            return False

    try:
        wait_until("Prometheus answers", answers)
        yield server
    finally:
        process.kill()
        process.wait()
