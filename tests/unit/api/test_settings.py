from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith.api.settings import BUILT_IN_PODS, InvalidSettingsError, PodSettings, Settings, parse_settings

SMALLEST = "stageImage: example.test/stages:1\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def settings(**more: Any) -> Settings:
    return parse_settings(yaml.safe_dump({"stageImage": "example.test/stages:1", **more}))


def problems_of(text: str) -> list[tuple[str, int, str]]:
    with pytest.raises(InvalidSettingsError) as caught:
        parse_settings(text)
    return [(problem.field, problem.line, problem.message) for problem in caught.value.problems]


# --- what is built in ------------------------------------------------------------------------------------------------


def test_smallest_settings() -> None:
    """The image is all that must be said; everything else has a default that works."""
    found = parse_settings(SMALLEST)
    assert (found.image_pull_policy, found.watch_namespaces, found.servers) == ("IfNotPresent", (), ())
    assert (found.storage.default.claim_name, found.storage.default.run_as_user) == ("tunesmith", 65532)
    assert (found.lease_name, found.lease_namespace, found.workers) == ("tunesmith-operator", None, 8)


STAGES = ["default", "fetch", "prepare", "rehearse", "train", "convert", "quantize", "register", "lookup"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_pod_has_requests_and_limits(stage: str) -> None:
    """Pods are admitted where a quota counts CPU and memory, without any setting."""
    assert {info.alias or name for name, info in type(BUILT_IN_PODS).model_fields.items()} == set(STAGES)
    said = BUILT_IN_PODS.model_dump(by_alias=True)
    for kind in ("requests", "limits"):
        amounts = {**said["default"]["resources"][kind], **said[stage]["resources"][kind]}
        assert amounts.keys() == {"cpu", "memory"}


def test_training_has_what_only_it_needs() -> None:
    """GPUs by NVIDIA's name, shared memory for NCCL, and time to save a checkpoint."""
    train = BUILT_IN_PODS.train
    assert (train.gpu_resource_name, train.shared_memory) == ("nvidia.com/gpu", "8Gi")
    assert train.termination_grace_period_seconds == 300


# --- what is given ---------------------------------------------------------------------------------------------------


def test_empty_texts_are_not_given() -> None:
    """Helm writes an empty text where a value is not set: it is the same as no value."""
    found = settings(
        storage={"default": {"claimName": "nfs", "subPath": ""}},
        network={"httpProxy": "", "caBundle": "", "huggingFaceEndpoint": ""},
        servers=[{"name": "main", "url": "http://ollama:11434", "caBundle": "", "modelNamePrefix": ""}],
        podDefaults={"default": {"runtimeClassName": "", "env": [{"name": "X", "value": ""}]}},
        leaseNamespace="",
        execServiceAccount="",
    )
    assert found.storage.default.sub_path is None
    assert found.network == Settings(stageImage="x").network
    assert (found.servers[0].ca_bundle, found.servers[0].model_name_prefix) == (None, "")
    assert found.pod_defaults.default.env[0].value == ""
    assert (found.lease_namespace, found.exec_service_account) == (None, None)


def test_namespaces_differ_from_the_default() -> None:
    """What a namespace does not say is not given there, so that the default's holds."""
    found = settings(storage={"namespaces": {"team-a": {"subPath": "{namespace}/x"}}})
    team = found.storage.namespaces["team-a"]
    assert (team.sub_path, team.claim_name, team.run_as_user) == ("{namespace}/x", None, None)


def test_users_that_the_cluster_chooses() -> None:
    """`null` is an answer of its own: no user and no group are asked for, and the default does not come back."""
    found = parse_settings(f"{SMALLEST}storage: {{default: {{runAsUser: null, runAsGroup: null}}}}\n").storage.default
    assert (found.run_as_user, found.run_as_group, found.claim_name) == (None, None, "tunesmith")


def test_administrators_may_set_any_variable() -> None:
    """What a user of the API may not set, such as a plugin of NCCL, the administrator may."""
    found = settings(podDefaults={"train": {"env": [{"name": "NCCL_NET_PLUGIN", "value": "aws-ofi"}]}})
    assert found.pod_defaults.train.env[0].name == "NCCL_NET_PLUGIN"
    assert isinstance(found.pod_defaults.train, PodSettings)


def test_administrators_may_set_any_label() -> None:
    """What would let a user choose Services or have something put into pods is the administrator's to set."""
    given = {"labels": {"team": "a"}, "annotations": {"sidecar.istio.io/proxyCPU": "10m"}}
    found = settings(podDefaults={"default": given}).pod_defaults.default
    assert (found.labels, found.annotations) == (given["labels"], given["annotations"])


@pytest.mark.parametrize("prefix", ["", "{namespace}/", "x/{namespace}_", "{namespace}.", "tunesmith/"])
def test_prefixes_of_names(prefix: str) -> None:
    """A prefix is free as long as it tells namespaces apart."""
    found = settings(servers=[{"name": "main", "url": "http://x", "modelNamePrefix": prefix}])
    assert found.servers[0].model_name_prefix == prefix


def test_values_of_the_chart_are_settings() -> None:
    """What the chart's values say about storage, pods and network is taken as it is."""
    values = yaml.safe_load(Path(__file__).parents[3].joinpath("charts/tunesmith/values.yaml").read_text())
    found = settings(**{name: values[name] for name in ("storage", "podDefaults", "network", "servers")})
    assert found.storage.default.claim_name == values["storage"]["default"]["claimName"]
    for stage, given in values["podDefaults"].items():
        taken = found.pod_defaults.model_dump(mode="json", by_alias=True, exclude_unset=True)[stage]
        assert taken == {name: value for name, value in given.items() if value != ""}


# --- what is wrong ---------------------------------------------------------------------------------------------------

SERVER = "servers:\n- name: main\n  url: "
BAD: dict[str, tuple[str, str, int, str]] = {
    "no image": ("workers: 1\n", "stageImage", 1, "must be given"),
    "an empty image": ('workers: 1\nstageImage: ""\n', "stageImage", 2, "must not be empty"),
    "a misspelt field": (f"{SMALLEST}stageimage: x\n", "stageimage", 2, "did you mean `stageImage`?"),
    "a misspelt field of a server": (
        f"{SMALLEST}{SERVER}http://x\n  allowedNamespace: [a]\n",
        "servers[0].allowedNamespace",
        5,
        "did you mean `allowedNamespaces`?",
    ),
    "a misspelt field of a namespace": (
        f"{SMALLEST}storage:\n  namespaces:\n    team-a:\n      claim: x\n",
        "storage.namespaces.team-a.claim",
        5,
        "did you mean `claimName`?",
    ),
    "an address without a scheme": (f"{SMALLEST}{SERVER}ollama:11434\n", "servers[0].url", 4, "must be"),
    "an address with a password": (f"{SMALLEST}{SERVER}http://me:secret@ollama\n", "servers[0].url", 4, "must be"),
    "a server twice": (
        f"{SMALLEST}servers:\n- {{name: a, url: http://x}}\n- {{name: a, url: http://y}}\n",
        "servers[1].name",
        4,
        "must differ from the others in this list, got 'a' again",
    ),
    "certificates for http": (
        f"{SMALLEST}{SERVER}http://x\n  caBundle: |\n    -----BEGIN CERTIFICATE-----\n",
        "servers[0].caBundle",
        5,
        "goes with an https address only",
    ),
    "certificates that are none": (
        f"{SMALLEST}network:\n  caBundle: /etc/ssl/ca.crt\n",
        "network.caBundle",
        3,
        "must be PEM certificates, got '/etc/ssl/ca.crt'",
    ),
    "a prefix with which team-a has the names of team-a-b": (
        f"{SMALLEST}{SERVER}http://x\n  modelNamePrefix: '{{namespace}}-'\n",
        "servers[0].modelNamePrefix",
        5,
        "team-a could take the names of team-a-b",
    ),
    "a prefix with nothing after the namespace": (
        f"{SMALLEST}{SERVER}http://x\n  modelNamePrefix: 'x/{{namespace}}'\n",
        "servers[0].modelNamePrefix",
        5,
        "team-a could take the names of team-a-b",
    ),
    "a misspelt namespace in a prefix": (
        f"{SMALLEST}{SERVER}http://x\n  modelNamePrefix: '{{ns}}/'\n",
        "servers[0].modelNamePrefix",
        5,
        "team-a could take the names of team-a-b",
    ),
    "Exec for everybody": (
        f"{SMALLEST}{SERVER}http://x\n  exec: {{namespace: a, pod: b, container: c, volumeMountPath: /v}}\n",
        "servers[0].allowedNamespaces",
        3,
        "must be given if there is `exec`",
    ),
    "an amount without quotes": (
        f"{SMALLEST}podDefaults:\n  train:\n    resources:\n      limits:\n        cpu: 4\n",
        "podDefaults.train.resources.limits.cpu",
        6,
        'must be a quantity in quotes: "4"',
    ),
    "root": (
        f"{SMALLEST}storage: {{default: {{runAsUser: 0}}}}\n",
        "storage.default.runAsUser",
        2,
        "must be 1 or more",
    ),
    "a default without a claim": (
        f"{SMALLEST}storage: {{default: {{claimName: A}}}}\n",
        "storage.default.claimName",
        2,
        "must be lower-case letters",
    ),
    "no workers": (f"{SMALLEST}workers: 0\n", "workers", 2, "must be 1 or more, got 0"),
    "a policy that is none": (f"{SMALLEST}imagePullPolicy: always\n", "imagePullPolicy", 2, "did you mean `Always`?"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name: str) -> None:
    """The operator says at its start which field is wrong, in which line, and what is allowed."""
    text, field, line, words = BAD[name]
    found = problems_of(text)
    assert [(where, at) for where, at, _ in found] == [(field, line)]
    assert words in found[0][2]


def test_server_errors_name_the_settings() -> None:
    """A file that is empty or holds something else is told of as settings, not as a job."""
    assert problems_of("")[0][2] == "the file is empty: it must hold the operator's settings"
    assert "the file must hold the operator's settings" in problems_of("- a\n")[0][2]
    assert problems_of("a: 1\n---\nb: 1\n")[0][1:] == (
        3,
        "the file must hold the operator's settings and nothing else, it holds 2 documents",
    )


def test_real_certificates_are_taken() -> None:
    """PEM texts are passed as they are, with their lines."""
    found = settings(servers=[{"name": "main", "url": "https://ollama.example.test", "caBundle": CERTIFICATE}])
    assert found.servers[0].ca_bundle == CERTIFICATE
