"""The chart in both Helms, without a cluster: what it renders and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from support.chart import CHART, HELMS, VARIANTS, Helm, Values, run_tool, settings_of
from tunesmith.api.settings import parse_settings


@pytest.fixture(params=HELMS)
def helm(request: pytest.FixtureRequest, tmp_path: Path) -> Helm:
    """Return each Helm, without a cluster."""
    return Helm(request.param, tmp_path)


def test_suites() -> None:
    """Every switch of the values does what charts/tunesmith/tests says, both ways."""
    done = run_tool("helm-unittest", "--strict", CHART)
    assert done.code == 0, done.out + done.err


def test_readme(tmp_path: Path) -> None:
    """The README is what helm-docs makes of the values' comments."""
    copy = tmp_path / "tunesmith"
    shutil.copytree(CHART, copy)
    (copy / "README.md").unlink()
    done = run_tool("helm-docs", f"--chart-search-root={tmp_path}", "--sort-values-order=file", "--log-level=warning")
    assert done.code == 0, done.err
    written, committed = ((folder / "README.md").read_text(encoding="utf-8") for folder in (copy, CHART))
    assert written == committed, "run `make chart-docs`"


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_lint(helm: Helm, values: Values) -> None:
    """Helm finds nothing to warn of."""
    told = helm.must("lint", "--strict", CHART, values=values)
    assert "WARNING" not in told


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_both_render_the_same(values: Values, tmp_path: Path) -> None:
    """Helm 3 installs what Helm 4 installs."""
    by_kind = [
        sorted(Helm(name, tmp_path).render(values), key=lambda item: json.dumps([item["kind"], item["metadata"]]))
        for name in HELMS
    ]
    assert by_kind[0] == by_kind[1]


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_operator_takes_its_settings(helm: Helm, values: Values) -> None:
    """The operator starts with the settings that the chart writes, and means the same by them."""
    settings = parse_settings(settings_of(helm.render(values)))
    assert settings.lease_namespace == "tunesmith"
    assert [server.name for server in settings.servers] == (
        ["main"] if "servers" in values or "ollama" in values else []
    )
    limits = values.get("podDefaults", {}).get("train", {}).get("resources", {}).get("limits", {})
    assert settings.pod_defaults.train.resources.limits == {name: str(limit) for name, limit in limits.items()}


def test_dashboard_and_alerts_are_carried_whole(helm: Helm) -> None:
    """Grafana and Prometheus get what the files hold, to the last `{{ }}` of their own."""
    manifests = helm.render(VARIANTS["all switches"])
    rules, dashboard = (
        (CHART / "files" / name).read_text(encoding="utf-8") for name in ("alerts.yaml", "dashboard.json")
    )
    assert [item["spec"] for item in manifests if item["kind"] == "PrometheusRule"] == [yaml.safe_load(rules)]
    files = {name: text for item in manifests if item["kind"] == "ConfigMap" for name, text in item["data"].items()}
    assert json.loads(files["tunesmith.json"]) == json.loads(dashboard)


def test_folder_of_the_trial_ollama(helm: Helm) -> None:
    """The folder of the claim that jobs use is the one that their models are read from, below the pod's mount."""
    settings = parse_settings(settings_of(helm.render(VARIANTS["trial with Exec"])))
    (server,) = settings.servers
    assert server.exec is not None
    assert server.exec.volume_mount_path == "/volume/jobs/{namespace}"
    assert server.allowed_namespaces == ("team-a",)


def test_users_that_the_cluster_chooses(helm: Helm) -> None:
    """With `null` for user and group, no pod asks for one: OpenShift gives each namespace its own."""
    manifests = helm.render(
        {"ollama": {"enabled": True}, "storage": {"default": {"runAsUser": None, "runAsGroup": None}}}
    )
    storage = parse_settings(settings_of(manifests)).storage.default
    assert (storage.run_as_user, storage.run_as_group) == (None, None)
    for pod in (
        manifest["spec"]["template"]["spec"] for manifest in manifests if "template" in manifest.get("spec", {})
    ):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


REFUSED: Mapping[str, tuple[Values, str]] = {
    "unknown value": ({"image": {"repo": "x"}}, "additional properties 'repo' not allowed"),
    "unknown field of a server": ({"servers": [{"name": "a", "url": "http://a", "token": "x"}]}, "'token' not allowed"),
    "server without address": ({"servers": [{"name": "a"}]}, "missing property 'url'"),
    "server's address with a password": ({"servers": [{"name": "a", "url": "http://u:p@a"}]}, "/servers/0/url"),
    "root": ({"storage": {"default": {"runAsUser": 0}}}, "/storage/default/runAsUser"),
    "folder out of the claim": ({"storage": {"default": {"subPath": "../other"}}}, "/storage/default/subPath"),
    "mount path with ..": ({"ollama": {"exec": {"volumeMountPath": "/volume/.."}}}, "/ollama/exec/volumeMountPath"),
    "no registry": ({"image": {"registry": ""}}, "`image.registry` is empty. Set it to the registry"),
    "registry with a scheme": ({"image": {"registry": "https://registry.example.com"}}, "/image/registry"),
    "digest": ({"image": {"stages": {"digest": "sha256:123"}}}, "/image/stages/digest"),
    "namespace": ({"watchNamespaces": ["Team_A"]}, "/watchNamespaces/0"),
    "number of workers": ({"operator": {"workers": 0}}, "/operator/workers"),
    "quantity that is no text": (
        {"podDefaults": {"train": {"resources": {"limits": {"cpu": 8}}}}},
        "/podDefaults/train/resources/limits/cpu': got number, want string",
    ),
    "misspelt stage": ({"podDefaults": {"training": {}}}, "additional properties 'training' not allowed"),
}


@pytest.mark.parametrize(("values", "told"), REFUSED.values(), ids=REFUSED)
def test_refused(helm: Helm, values: Values, told: str) -> None:
    """A value that cannot be right is refused before anything is installed, and its place is told."""
    done = helm.run("template", "tunesmith", CHART, values=values)
    assert done.code != 0
    assert told in done.err
