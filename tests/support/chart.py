"""Both Helms on the project's chart, the other pinned tools of it, and values that turn its switches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))  # scripts, not a package that is installed

import charts

from support.cluster import Cluster

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "tunesmith"
HELMS = ("helm4", "helm3")
Manifest = Mapping[str, Any]
Values = Mapping[str, Any]
NEEDED: Values = {"image": {"registry": "registry.example.com/ml"}}
"""Values without which nothing is installed."""


@dataclass(frozen=True)
class Done:
    """What a program left: exit code and what it said."""

    code: int
    out: str
    err: str


def run_tool(name: str, *arguments: str | Path, environ: Mapping[str, str] | None = None, stdin: str = "") -> Done:
    """Run a pinned tool of the chart to its end, built first if need be."""
    command = [charts.ensure(name), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ, input=stdin)
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Helm:
    """One of :data:`HELMS`, with nothing of this machine's own Helm.

    Attributes:
        name: which one.
        folder: for its files.
        kubeconfig: of the cluster that it talks to.
    """

    name: str
    folder: Path
    kubeconfig: Path = Path("/dev/null")

    def run(self, *arguments: str | Path, values: Values | None = None) -> Done:
        """Run it with these values, over those that everybody must give, and return what came of it."""
        given: list[str | Path] = []
        for number, part in enumerate([] if values is None else [NEEDED, values]):
            file = self.folder / f"values-{number}.yaml"
            file.write_text(yaml.safe_dump(dict(part)), encoding="utf-8")
            given += ["--values", file]
        own = {f"HELM_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": str(self.kubeconfig), **own}
        return run_tool(self.name, *arguments, *given, environ=environ)

    def must(self, *arguments: str | Path, values: Values | None = None) -> str:
        """Run it and return what it printed; a failure ends the test with what Helm said."""
        done = self.run(*arguments, values=values)
        assert done.code == 0, f"{self.name} {arguments}: {done.err}"
        return done.out

    def render(self, values: Values | None = None, namespace: str = "tunesmith") -> list[Manifest]:
        """Return what would be installed, without a cluster."""
        out = self.must("template", "tunesmith", CHART, "--namespace", namespace, values=values or {})
        return [manifest for manifest in yaml.safe_load_all(out) if manifest]


def settings_of(manifests: list[Manifest]) -> str:
    """Return the operator's settings file among rendered manifests."""
    files = [manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"]
    (settings,) = (data["settings.yaml"] for data in files if "settings.yaml" in data)
    return str(settings)


def install(helm: Helm, values: Values, namespace: str = "tunesmith", command: str = "install") -> str:
    """Install (or upgrade) the release `tunesmith` of a namespace; return what Helm says."""
    return helm.must(command, "tunesmith", CHART, "--namespace", namespace, values=values)


def uninstall_all(helm: Helm) -> None:
    """Remove every release of the cluster."""
    for release in json.loads(helm.must("list", "--all-namespaces", "--output=json")):
        helm.must("uninstall", release["name"], "--namespace", release["namespace"], "--wait")


def add_namespaces(server: Cluster, *names: str) -> None:
    """Make namespaces that take restricted pods only; those that are there stay."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}} for name in names
    ]
    server.kubectl("apply", "--filename=-", objects=objects)


def wait_until(what: str, done: Callable[[], object], seconds: float = 120) -> None:
    """Wait for something that the cluster does by itself."""
    last = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < last, f"not within {seconds} s: {what}"
        time.sleep(0.1)


# --- values ----------------------------------------------------------------------------------------------------------

_POD = {"namespace": "ollama", "pod": "ollama-0", "container": "ollama", "volumeMountPath": "/volume/{namespace}"}
EXEC: Values = {
    "watchNamespaces": ["team-a", "team-b"],
    "servers": [
        {
            "name": "main",
            "url": "http://ollama.ollama.svc:11434",
            "allowedNamespaces": ["team-a", "team-b"],
            "modelNamePrefix": "{namespace}/",
            "exec": _POD,
        }
    ],
}
NFS: Values = {"nfs": {"enabled": True, "server": "nfs.example", "path": "/exports", "namespaces": ["team-a"]}}
VARIANTS: Mapping[str, Values] = {
    "defaults": {},
    "exec and NFS": {**EXEC, **NFS},
    "trial": {"ollama": {"enabled": True, "storage": {"size": "5Gi"}}, "image": {"pullSecrets": ["registry"]}},
    "trial with Exec": {
        "ollama": {"enabled": True, "exec": {"claimName": "results", "namespaces": ["team-a"]}},
        "storage": {"default": {"subPath": "jobs/{namespace}"}},
    },
    "all switches": {
        "operator": {"replicas": 2, "priorityClassName": "high", "tolerations": [{"key": "a", "operator": "Exists"}]},
        "storage": {"default": {"runAsUser": 1000680000}, "namespaces": {"team-a": {"claimName": "fast"}}},
        "podDefaults": {
            "default": {"env": [{"name": "TZ", "value": "UTC"}], "labels": {"cost-center": "ml"}},
            "train": {"resources": {"limits": {"cpu": "8"}}, "runtimeClassName": "nvidia", "sharedMemory": "16Gi"},
        },
        "network": {"httpsProxy": "http://proxy.example:3128", "caBundle": "-----BEGIN CERTIFICATE-----\nMIIB\n"},
        "serviceMonitor": {"enabled": True, "labels": {"release": "monitoring"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "monitoring"}},
        "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Tunesmith"}},
        "networkPolicy": {"enabled": True},
        "crds": {"keep": False},
    },
}
"""Values that together turn every switch."""
