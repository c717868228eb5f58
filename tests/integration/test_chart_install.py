"""The chart on a real API server, in both Helms: install, upgrade, uninstall, several releases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chart import (
    CHART,
    EXEC,
    HELMS,
    NFS,
    VARIANTS,
    Helm,
    add_namespaces,
    install,
    run_tool,
    uninstall_all,
    wait_until,
)
from support.cluster import ApiServer, api_server
from support.kube_schemas import write_schemas

CRD = "finetunejobs.tunesmith.dev"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Yield an API server without nodes; its controllers make pods, which stay Pending."""
    with api_server(tmp_path_factory.mktemp("api") / "server") as running:
        yield running


@pytest.fixture(params=HELMS)
def helm(request: pytest.FixtureRequest, tmp_path: Path, server: ApiServer) -> Iterator[Helm]:
    """Yield each Helm with a cluster in which nothing of the chart is; take away what the test leaves."""
    add_namespaces(server, "tunesmith", "team-a", "team-b", "ollama")
    helm = Helm(request.param, tmp_path, server.kubeconfig)
    yield helm
    uninstall_all(helm)
    server.kubectl("delete", "crd", CRD, "--ignore-not-found")


def names(server: ApiServer, kind: str, *where: str) -> set[str]:
    """Return the names of the chart's objects of a kind."""
    items = server.get(kind, "--selector=app.kubernetes.io/part-of=tunesmith", *where)["items"]
    return {item["metadata"]["name"] for item in items}


def test_schemas(server: ApiServer, tmp_path: Path) -> None:
    """Everything that is rendered has only fields that this Kubernetes knows, with values of the right types."""
    schemas = tmp_path / "schemas"
    schemas.mkdir()
    assert write_schemas(json.loads(server.kubectl("get", "--raw", "/openapi/v2")), schemas) > 100
    place = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    options = ["-strict", "-summary", "-skip=ServiceMonitor,PrometheusRule", f"-schema-location={place}", "-"]
    for name, values in VARIANTS.items():
        out = Helm("helm4", tmp_path).must("template", "tunesmith", CHART, values=values)
        done = run_tool("kubeconform", *options, stdin=out)
        assert done.code == 0, f"{name}: {done.out}"
        wrong = run_tool("kubeconform", *options, stdin=out.replace("automountServiceAccountToken:", "automountToken:"))
        assert wrong.code != 0, "a field that does not exist is found"


def test_install_upgrade_uninstall(helm: Helm, server: ApiServer) -> None:
    """A release comes up in a namespace of restricted pods, follows its values, and goes; the jobs stay."""
    told = install(helm, VARIANTS["trial"])
    assert "Ollama servers it may name: main" in told
    wait_until("pods of the operator and of Ollama", lambda: len(server.get("pods", "-n", "tunesmith")["items"]) == 2)
    deployment = server.get("deployment", "tunesmith", "-n", "tunesmith")
    wait_until("FineTuneJobs are served", lambda: server.serves(CRD))
    server.kubectl("create", "--filename=-", objects=[_job("kept", "team-a")])

    install(helm, {**EXEC, **NFS}, command="upgrade")
    after = server.get("deployment", "tunesmith", "-n", "tunesmith")
    changed = "tunesmith.dev/settings-checksum"
    before_and_after = [item["spec"]["template"]["metadata"]["annotations"][changed] for item in (deployment, after)]
    assert before_and_after[0] != before_and_after[1], "other settings need a new pod"
    assert names(server, "statefulset", "-n", "tunesmith") == set()
    wait_until(
        "the claim is bound", lambda: server.get("pvc", "tunesmith", "-n", "team-a")["status"]["phase"] == "Bound"
    )

    helm.must("uninstall", "tunesmith", "--namespace", "tunesmith", "--wait")
    kinds = "deployment,service,configmap,serviceaccount,role,rolebinding,pvc"
    cluster_kinds = "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding,pv"
    assert names(server, kinds, "-A") == set()
    assert names(server, cluster_kinds) == set()
    assert server.get("finetunejob", "kept", "-n", "team-a"), "the definition is kept, and with it the jobs"

    install(helm, {})  # takes the kept definition over again
    assert server.get("finetunejob", "kept", "-n", "team-a")


def _job(name: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"volume": {"path": "models/base"}},
            "datasets": [{"name": "faq", "volume": {"path": "data/faq.json"}}],
            "ollama": {"model": "support-bot:v1"},
        },
    }


def test_definition_goes(helm: Helm, server: ApiServer) -> None:
    """With `crds.keep=false` the definition goes with the release; with `crds.enabled=false` it never comes."""
    install(helm, {"crds": {"keep": False}})
    assert server.get("crd", CRD)
    helm.must("uninstall", "tunesmith", "--namespace", "tunesmith", "--wait")
    assert names(server, "crd") == set()
    install(helm, {"crds": {"enabled": False}})
    assert names(server, "crd") == set()


def test_second_release(helm: Helm, server: ApiServer) -> None:
    """Two releases with namespaces of their own do not meet."""
    add_namespaces(server, "platform-b")
    install(helm, {"watchNamespaces": ["team-a"]})
    install(helm, {"watchNamespaces": ["team-b"], "crds": {"enabled": False}}, namespace="platform-b")
    assert names(server, "role", "-n", "team-a") == {"tunesmith-tunesmith"}
    assert names(server, "role", "-n", "team-b") == {"platform-b-tunesmith"}
    # The roles of users go with the definition, which is the cluster's.
    assert names(server, "clusterrole") == {"tunesmith-tunesmith-view", "tunesmith-tunesmith-edit"}


def test_namespace_that_is_not_there(helm: Helm, server: ApiServer) -> None:
    """A namespace that is named but does not exist is told before anything is helm."""
    done = helm.run("install", "tunesmith", CHART, "--namespace", "tunesmith", values={"watchNamespaces": ["gone"]})
    assert done.code != 0
    assert 'The namespace "gone" is named in the values but does not exist' in done.err
    assert names(server, "configmap", "-n", "tunesmith") == set()
