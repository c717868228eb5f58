"""The chart's dashboard and alerts on a real Prometheus, which scrapes a real operator on a real API server.

Everything that there is a metric for happens there once: stages that end well and badly, a training that tells how far
it is, a refusal by the API server, a clean-up, and a model that is left behind.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.builders import job_data
from support.chart import wait_until
from support.cluster import ApiServer, api_server
from support.dashboard import FILE, Panel, as_asked, panels, variables
from support.generator import ROOT
from support.played_node import PlayedNode, played_node
from support.ports import free_port
from support.prometheus import RealPrometheus, real_prometheus
from tunesmith.api import keys
from tunesmith_stages.contract import ExitCode, Failure, StageName
from tunesmith_stages.progress import Progress

# isort: split
from generating.metrics import metrics  # hack, on the path since support.generator
from grafana_sdk import GRAFANA_SDK  # hack/toolchain, on the path since support.cluster
from tied import tied

CHART_FILES = ROOT / "charts" / "tunesmith" / "files"
DEFINITION = CHART_FILES / "tunesmith.dev_finetunejobs.yaml"
RULES = CHART_FILES / "alerts.yaml"
SETTINGS = {
    "stageImage": "tunesmith-stages:none",
    "leaseNamespace": "default",
    "servers": [{"name": "main", "url": "http://ollama:11434"}],
}
RELEASE = {
    "namespace": "tunesmith",
    "job": "tunesmith-metrics",
    "service": "tunesmith-metrics",
    "endpoint": "http",
    "container": "operator",
    "pod": "tunesmith-0",
}
"""The labels that a ServiceMonitor gives the operator's metrics."""
TEAM, FULL = "team-a", "team-full"
TOLD = {
    "loss": 1.25,
    "evalLoss": 1.5,
    "learningRate": 0.0002,
    "gradNorm": 0.75,
    "tokensPerSecond": 5120.0,
    "gpuMemory": 41e9,
    "peakGpuMemory": 61e9,
    "etaSeconds": 60.0,
}
"""What the training has told last."""
SHOWN = {
    "loss": 1.25,
    "eval_loss": 1.5,
    "learning_rate": 0.0002,
    "grad_norm": 0.75,
    "tokens_per_second": 5120,
    "gpu_memory_bytes": 41e9,
    "gpu_memory_peak_bytes": 61e9,
    "eta_seconds": 60,
    "steps": 37,
    "steps_planned": 100,
}
"""What Prometheus must have of it."""
CLEANED = {"freedBytes": 5_000_000, "uselessBytes": 7_000_000, "keptBytes": 11_000_000}
KEY = "a" * 64
SERVED_ELSEWHERE = {
    "observedGeneration": 1,
    "stages": [
        {
            "name": "register",
            "state": "Succeeded",
            "keys": [KEY],
            "attempts": 1,
            "units": [{"name": "old", "key": KEY, "digest": KEY, "bytes": 1}],
        }
    ],
    "ollama": [{"server": "old", "models": ["gone:v1"]}],
}
"""The status of a job that serves its model on a server that the administrator has taken out of the settings since."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPrometheus]:
    """Yield a Prometheus that has seen everything once."""
    folder = tmp_path_factory.mktemp("observability")
    with ExitStack() as stack:
        server = stack.enter_context(api_server(folder / "server"))
        node = stack.enter_context(played_node(server))
        prepare(server, node)
        port = stack.enter_context(operator(server, folder))
        running = stack.enter_context(real_prometheus(folder, RULES, f"127.0.0.1:{port}", RELEASE))
        happen(node, folder)
        wait_until(
            "Prometheus has the training and the failure",
            lambda: all(running.value(query) is not None for query in LAST),
        )
        yield running


LAST = (
    "sum(rate(tunesmith_reconciles_total[5s]))",
    "tunesmith_training_gpu_memory_peak_bytes",
    'tunesmith_stages_finished_total{reason="SourceNotFound"}',
    "sum(tunesmith_api_errors_total)",
    "sum(tunesmith_models_left_behind_total)",
)
"""What is there when everything has happened."""


def prepare(server: ApiServer, node: PlayedNode) -> None:
    """Make what is there before the operator begins."""
    server.kubectl("apply", "--server-side", f"--filename={DEFINITION}")
    named = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (TEAM, FULL)]
    no_jobs = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": FULL}}
    server.kubectl("create", "--filename=-", objects=[*named, {**no_jobs, "spec": {"hard": {"count/jobs.batch": "0"}}}])
    wait_until("FineTuneJobs are served", lambda: server.serves(keys.PLURAL))
    wait_until("pods can be made", lambda: server.get("serviceaccounts", "--namespace", TEAM)["items"])
    clean_up(server, node)
    left = finetunejob("left", changes={"spec.ollama.servers": ["old"], "spec.ollama.deletionPolicy": "Delete"})
    left["metadata"]["finalizers"] = [keys.FINALIZER]
    jobs = [finetunejob("bot"), finetunejob("broken"), finetunejob("held", FULL), left]
    server.kubectl("create", "--filename=-", objects=jobs)
    at = ["finetunejob", "left", "--namespace", TEAM]
    patch = f"--patch={json.dumps({'status': SERVED_ELSEWHERE})}"
    server.kubectl("patch", *at, "--subresource=status", "--type=merge", patch)
    server.kubectl("delete", *at, "--wait=false")


def clean_up(server: ApiServer, node: PlayedNode) -> None:
    """Leave the pod of a clean-up that has ended, as the chart's CronJob does."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "gc-1", "namespace": TEAM, "labels": {keys.GC_LABEL: "tunesmith-gc"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "gc", "image": "none"}]},
    }
    server.kubectl("create", "--filename=-", objects=pod)
    ended = {"exitCode": 0, "startedAt": "2026-11-22T03:17:00Z", "finishedAt": "2026-11-22T03:18:00Z"}
    state = {"terminated": {**ended, "message": json.dumps(CLEANED)}}
    container = {"name": "gc", "image": "none", "imageID": "none", "ready": False, "restartCount": 0, "state": state}
    node.patch_status(pod, {"phase": "Succeeded", "containerStatuses": [container]})


def finetunejob(name: str, namespace: str = TEAM, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a FineTuneJob with sources and a model of its own."""
    own = {"metadata.name": name, "metadata.namespace": namespace, "spec.ollama.model": f"{name}:v1"}
    own |= {"spec.model.volume.path": f"models/{name}", "spec.datasets.0.volume.path": f"data/{name}.json"}
    return job_data({**own, **(changes or {})})


@contextmanager
def operator(server: ApiServer, folder: Path) -> Iterator[int]:
    """Run the operator until the block ends; yield the port of its metrics."""
    settings, port = folder / "settings.yaml", free_port()
    settings.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "operator", f"--settings={settings}", f"--port={port}"]
    environ = {**os.environ, "KUBECONFIG": str(server.kubeconfig)}
    with (folder / "operator.log").open("wb") as log:
        process = subprocess.Popen(tied(command), stderr=log, env=environ)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def happen(node: PlayedNode, folder: Path) -> None:
    """Let stages run, one of them fail, and a training tell how far it is."""
    lost = Failure(ExitCode.MISSING_INPUT, "SourceNotFound", "models/broken is not there", "Put it there.")
    node.end(node.pod_of(TEAM, "broken", "fetch"), lost)
    for stage in ("fetch", "prepare", "rehearse"):
        node.end(node.pod_of(TEAM, "bot", stage))
    told = Progress(StageName.TRAIN, "train", folder)
    told.count(36, 100, "steps", {name: 2 * value for name, value in TOLD.items()})
    told.count(37, 100, "steps", TOLD)
    node.run(node.pod_of(TEAM, "bot", "train"), (folder / "progress.jsonl").read_text(encoding="utf-8"))


# --- the dashboard ---------------------------------------------------------------------------------------------------

CHOSEN: Mapping[str, Mapping[str, str]] = {
    "all": {},
    "one of each": {"operator": "tunesmith", "namespace": TEAM, "finetunejob": "bot"},
}
ASKED = [(panel, ref) for panel in panels() for ref in panel.queries]


@pytest.mark.parametrize("chosen", CHOSEN.values(), ids=CHOSEN)
@pytest.mark.parametrize(("panel", "ref"), ASKED, ids=[f"{panel.title}-{ref}" for panel, ref in ASKED])
def test_each_panel_shows_something(
    prometheus: RealPrometheus, panel: Panel, ref: str, chosen: Mapping[str, str]
) -> None:
    """Each query of each panel brings figures, as Grafana asks it, with a name for each line."""
    query = as_asked(panel.queries[ref], chosen, "10s")
    now = time.time()
    span = {"start": str(now - 600), "end": str(now), "step": "2"}
    found = prometheus.ask("query_range", query=query, **span)["result"]
    assert [value for series in found for _, value in series["values"] if value != "NaN"]
    for label in re.findall(r"\{\{(\w+)\}\}", panel.legends[ref]):
        assert all(series["metric"].get(label) for series in found), label


CHOICES = {"operator": ["tunesmith"], "namespace": [TEAM], "finetunejob": ["bot"]}


@pytest.mark.parametrize("name", variables())
def test_variables_have_values(prometheus: RealPrometheus, name: str) -> None:
    """At the top of the dashboard can be chosen what there is."""
    asked = re.fullmatch(r"label_values\((.*), (\w+)\)", as_asked(variables()[name], {}, ""))
    assert asked is not None
    found = prometheus.ask(f"label/{asked[2]}/values", **{"match[]": asked[1]})
    assert found == CHOICES[name]


def test_grafana_reads_it() -> None:
    """Grafana's own SDK knows every field of the dashboard and every word in it."""
    reader = ROOT / "tests" / "support" / "grafana_reads.py"
    done = subprocess.run([GRAFANA_SDK.ensure(), reader, FILE], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- metrics and alerts ----------------------------------------------------------------------------------------------


def test_every_documented_metric_is_there(prometheus: RealPrometheus) -> None:
    """Prometheus has each metric of the page's table, and of Tunesmith's no other."""
    names = prometheus.ask("label/__name__/values", **{"match[]": '{__name__=~"tunesmith_.*"}'})
    told = {re.sub(r"(?<=_seconds)_(bucket|sum|count|created)$", "", name) for name in names}
    created = {name for name in told if name.endswith("_created")}
    assert told - created == {name for name, *_ in metrics()}


@pytest.mark.parametrize("name", SHOWN)
def test_a_training_is_shown_as_it_told(prometheus: RealPrometheus, name: str) -> None:
    """Prometheus has the last figures that the program wrote into its log, under the FineTuneJob's own namespace."""
    query = f'tunesmith_training_{name}{{namespace="{TEAM}", finetunejob="bot"}}'
    assert prometheus.value(query) == SHOWN[name]


def test_alerts_are_evaluated(prometheus: RealPrometheus) -> None:
    """Prometheus evaluates each rule without an error; nothing stirs but the alert of a training that stands still."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    given = {rule.get("alert") or rule["record"] for group in groups for rule in group["rules"]}

    def rules() -> dict[str, Any]:
        return {rule["name"]: rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]}

    def stirring(state: str) -> set[str]:
        return {name for name, rule in rules().items() if rule.get("state") == state}

    wait_until("all are evaluated", lambda: all(rule["health"] != "unknown" for rule in rules().values()))
    assert rules().keys() == given
    assert {name: rule.get("lastError", "") for name, rule in rules().items()} == dict.fromkeys(given, "")
    wait_until("the training has no further step", lambda: "TunesmithTrainingStuck" in stirring("pending"))
    of_operator = {"TunesmithOperatorAbsent", "TunesmithNoLeader", "TunesmithCacheOld"}
    wait_until("the operator works", lambda: not of_operator & stirring("pending"))
    assert stirring("firing") == set()
