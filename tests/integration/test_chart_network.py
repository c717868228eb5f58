"""The chart's NetworkPolicies: whom each of our pods may reach and who may reach it, by the labels that it really has.

The test cluster's network does not enforce policies, so what they let through is computed (:mod:`support.networking`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.chart import EXEC, VARIANTS, Helm, Manifest, Values
from support.networking import Peer, Port, may_come, may_go
from support.pods import children
from tunesmith.api.pods import Storage
from tunesmith.api.settings import parse_settings
from tunesmith.core.manifests import child_manifests, log_reader_pod
from tunesmith_stages.contract import StageName

TEAM, OLLAMA = "team-a", "ollama"
_MLFLOW: Values = {"trackers": {"mlflow": "http://mlflow.mlops.svc:5000"}}
_PROXY: Values = {"network": {"httpsProxy": "http://proxy.example:3128"}}
BY_API: Values = {
    "watchNamespaces": [TEAM],
    "servers": [{"name": "main", "url": "http://ollama.ollama.svc:80"}],
    "networkPolicy": {"enabled": True},
    **_MLFLOW,
}
BY_EXEC: Values = {**EXEC, "networkPolicy": {"enabled": True}}

ANYWHERE = Peer()
PLACES: Mapping[str, tuple[Peer, Port]] = {
    "DNS": (Peer("kube-system", {"k8s-app": "kube-dns"}), Port(53, "UDP")),
    "the hub": (ANYWHERE, Port(443)),
    "a proxy": (ANYWHERE, Port(3128)),
    "the API server": (ANYWHERE, Port(6443)),
    "the cloud's metadata": (ANYWHERE, Port(80)),
    "Ollama": (Peer(OLLAMA, {"app": "ollama"}), Port(11434)),
    "Ollama's shell": (Peer(OLLAMA, {"app": "ollama"}), Port(22)),
    "another team's Ollama": (Peer("team-b", {"app": "ollama"}), Port(11434)),
    "MLflow": (Peer("mlops", {"app": "mlflow"}), Port(5000)),
    "a training of the team": (
        Peer(TEAM, {"app.kubernetes.io/managed-by": "tunesmith", "tunesmith.dev/stage": "train"}),
        Port(29400),
    ),
    "a training of others": (
        Peer("team-b", {"app.kubernetes.io/managed-by": "tunesmith", "tunesmith.dev/stage": "train"}),
        Port(29400),
    ),
    "a database of the team": (Peer(TEAM, {"app": "database"}), Port(5432)),
    "the operator": (Peer("tunesmith", {"app.kubernetes.io/component": "operator"}), Port(8080, name="http")),
}


@pytest.fixture
def render(tmp_path: Path) -> Any:
    """Return a function that renders the chart with values."""
    return Helm("helm4", tmp_path).render


def policies_in(manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]


def pods_of_team() -> Iterator[tuple[str, Peer]]:
    """Yield each pod that is made for a FineTuneJob, as NetworkPolicies see it, with the labels that it really has."""
    settings = parse_settings("stageImage: x\nservers: [{name: main, url: 'http://x'}]")
    changes = {"spec.training.nodes": 2}
    for stage, child in children(changes).items():
        for lookup in (False, True):
            job = child_manifests(replace(child, lookup=lookup), settings)[-1]
            name = f"{stage}, looked up" if lookup else str(stage)
            yield name, Peer(TEAM, job["spec"]["template"]["metadata"]["labels"])
    meta = {"name": "bot", "namespace": TEAM, "uid": "u"}
    reader = log_reader_pod({"metadata": meta, "spec": {}}, "x", image="i", storage=Storage())
    yield "log reader", Peer(TEAM, reader["metadata"]["labels"])


WAYS_OUT: Mapping[str, set[str]] = {
    "fetch": {"DNS", "the hub"},
    "prepare": {"DNS"},
    "rehearse": {"DNS", "Ollama"},
    "train": {"DNS", "a training of the team", "MLflow"},
    "convert": {"DNS"},
    "quantize": {"DNS"},
    "register": {"DNS", "Ollama"},
    "log reader": {"DNS"},
}
"""Whom each pod may reach, with the method API, an MLflow server and no proxy."""


def test_whom_pods_may_reach(render: Any) -> None:
    """A pod reaches what its stage needs and nothing else: no other team, no database, no API server, no metadata."""
    policies = policies_in(render(BY_API))
    found = {
        name: {place for place, (peer, port) in PLACES.items() if may_go(policies, pod, peer, port)}
        for name, pod in pods_of_team()
    }
    assert {name: ways for name, ways in found.items() if not name.endswith("looked up")} == WAYS_OUT
    assert all(ways <= found[name.partition(",")[0]] for name, ways in found.items())
    assert {str(stage) for stage in StageName} < found.keys()


def test_who_may_reach_pods(render: Any) -> None:
    """Nobody reaches a stage, but the pods of one namespace that train together."""
    policies = policies_in(render(BY_API))
    for name, pod in pods_of_team():
        found = {place for place, (peer, _) in PLACES.items() if may_come(policies, pod, peer, Port(29400))}
        trains = name.startswith("train")
        assert found == ({"a training of the team"} if trains else set()), name


def test_exec_needs_the_api_server(render: Any) -> None:
    """With Exec, the stages that run commands in Ollama's pod reach the API server; no other does."""
    policies = policies_in(render(BY_EXEC))
    server = PLACES["the API server"]
    found = {name for name, pod in pods_of_team() if may_go(policies, pod, *server) and "," not in name}
    assert found == {"rehearse", "register"}


def test_servers_of_other_namespaces_are_not_reached(render: Any) -> None:
    """A namespace that may not use a server is not let through to it either."""
    server = {"name": "main", "url": "http://ollama.ollama.svc:11434", "allowedNamespaces": [TEAM]}
    policies = policies_in(render({**BY_API, "watchNamespaces": [TEAM, "team-b"], "servers": [server]}))
    for name, pod in pods_of_team():
        other = replace(pod, namespace="team-b")
        assert may_go(policies, pod, *PLACES["Ollama"]) is (name.partition(",")[0] in {"rehearse", "register"})
        assert not may_go(policies, other, *PLACES["Ollama"]), name


def test_proxies_and_mirrors(render: Any) -> None:
    """`fetch` reaches the ports of proxies and mirrors, only those peers that are named, and a tracker by the proxy."""
    policies = policies_in(render({**BY_API, **_PROXY}))
    pods = dict(pods_of_team())
    assert may_go(policies, pods["fetch"], *PLACES["a proxy"])
    assert may_go(policies, pods["train"], *PLACES["a proxy"])
    assert not may_go(policies, pods["prepare"], *PLACES["a proxy"])
    named = {
        "enabled": True,
        "hubs": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "mirror"}}}],
    }
    policies = policies_in(render({**BY_API, "networkPolicy": named}))
    assert not may_go(policies, pods["fetch"], *PLACES["the hub"])
    assert may_go(policies, pods["fetch"], Peer("mirror"), Port(443))


def test_namespaces_can_be_named(render: Any) -> None:
    """Where all namespaces are watched, the values name those with policies; without, the operator has one."""
    everywhere = {**BY_API, "watchNamespaces": []}
    assert {item["metadata"]["namespace"] for item in policies_in(render(everywhere))} == {"tunesmith"}
    named = {**everywhere, "networkPolicy": {"enabled": True, "namespaces": [TEAM]}}
    assert {item["metadata"]["namespace"] for item in policies_in(render(named))} == {"tunesmith", TEAM}


def test_the_operator(render: Any) -> None:
    """The operator reaches DNS and the API server, and is asked for metrics on its one port."""
    manifests = render(VARIANTS["all switches"])
    (deployment,) = (item for item in manifests if item["kind"] == "Deployment")
    pod = Peer("tunesmith", deployment["spec"]["template"]["metadata"]["labels"])
    policies = policies_in(manifests)
    found = {place for place, (peer, port) in PLACES.items() if may_go(policies, pod, peer, port)}
    assert found == {"DNS", "the API server", "the hub"}, "an API server often listens on 443 too"
    assert may_come(policies, pod, Peer("monitoring"), Port(8080, name="http"))
    assert not may_come(policies, pod, Peer("monitoring"), Port(22))
    assert not may_come(policies, pod, ANYWHERE, Port(8080, name="http"))


def test_what_cleans_volumes_up(render: Any) -> None:
    """The pods of `tunesmith gc` reach DNS and the API server alone, and nobody reaches them."""
    manifests = render({**BY_API, "gc": {"volumes": [{"namespace": TEAM}]}})
    (cron,) = (item for item in manifests if item["kind"] == "CronJob")
    labels = cron["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    pod, policies = Peer(TEAM, labels), policies_in(manifests)
    found = {place for place, (peer, port) in PLACES.items() if may_go(policies, pod, peer, port)}
    assert found == {"DNS", "the API server", "the hub"}, "an API server often listens on 443 too"
    assert not any(may_come(policies, pod, peer, port) for peer, port in PLACES.values())


def test_without_policies_everything_is_open(render: Any) -> None:
    """What is computed here does not forbid by itself."""
    for _, pod in pods_of_team():
        assert may_go(policies_in(render({})), pod, *PLACES["a database of the team"])
        break
