"""FineTuneJobs that want more than their author may have, and the pods that jobs get, on a real API server.

Who writes FineTuneJobs need not be allowed to make pods, read Secrets or reach a server: the operator does nothing of
that for them (docs/security.md).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integration.test_crd import Jobs, RefusedError
from support.builders import job, job_data
from support.chart import VARIANTS, Helm, Values, add_namespaces
from support.cluster import ApiServer, api_server
from support.generator import EXAMPLE, ROOT
from tunesmith.api.crd import custom_resource_definition
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.parse import parse_job, parse_object
from tunesmith.api.pods import Storage
from tunesmith.api.settings import Settings, parse_settings
from tunesmith.core.manifests import Child, child_manifests, log_reader_pod
from tunesmith.core.manifests.paper import children_on_paper
from tunesmith.core.policy import obstacle
from tunesmith_stages.contract import StageName

TEAM = "team-a"
EVERYTHING = ROOT / "hack" / "generating" / "everything"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Yield an API server with the CRD, a namespace of restricted pods, and all that pods of ours may name."""
    with api_server(tmp_path_factory.mktemp("refusals") / "server") as running:
        running.kubectl("apply", "--server-side", "--filename=-", objects=custom_resource_definition())
        add_namespaces(running, TEAM)
        running.kubectl("create", "--filename=-", objects=_needed())
        yield running


def _needed() -> list[dict[str, Any]]:
    """Return what a pod must not name unless it is there."""
    scheduling, node = "scheduling.k8s.io/v1", "node.k8s.io/v1"
    return [
        *(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": TEAM}}
            for name in ("tunesmith", "tunesmith-exec", "tunesmith-gc")
        ),
        *(
            {"apiVersion": scheduling, "kind": "PriorityClass", "metadata": {"name": name}, "value": 1}
            for name in ("low", "batch", "high")
        ),
        {"apiVersion": node, "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"},
    ]


@pytest.fixture(scope="module")
def jobs(server: ApiServer) -> Jobs:
    """Return the FineTuneJobs of that API server."""
    found = Jobs(server)
    found.wait_until_served()
    return found


# --- what a FineTuneJob cannot ask for -------------------------------------------------------------------------------

DATA = "spec.datasets.0"
UNKNOWN, FORM, LEADS_OUT = "unknown field", "must be", "must not contain '..'"
NOT_FOR_JOBS, SMALLEST = "must begin with `tunesmith-`", "greater than or equal to 1"
PLAIN_LABEL, INJECTS, KEPT = "must have keys with a domain", "must have keys without a domain", "must not have keys"
ELSEWHERE = "http://example.com"
Changes = dict[str, Any]


def pod(**fields: Any) -> Changes:
    return {"spec.pods.train": fields}


def variable(name: str, **more: Any) -> Changes:
    return pod(env=[{"name": name, **(more or {"value": ELSEWHERE})}])


def hub(**fields: Any) -> Changes:
    return {"spec.model": {"huggingFace": {"repo": "a/b", **fields}}}


def token(**reference: str) -> Changes:
    return hub(tokenSecretRef=reference)


def tracker(**fields: Any) -> Changes:
    return {"spec.training.tracking": {"type": "MLflow", **fields}}


def note(key: str, value: str) -> Changes:
    return pod(annotations={key: value})


def config_map(**fields: str) -> Changes:
    return {DATA: {"name": "faq", "configMap": {"name": "x", "key": "x.json", **fields}}}


ATTEMPTS: Mapping[str, tuple[Changes, str]] = {
    # Secrets
    "a Secret that is not for jobs": (token(name="database"), NOT_FOR_JOBS),
    "a Secret of another namespace": (token(name="tunesmith-hf", namespace="team-b"), UNKNOWN),
    "a Secret of another namespace by its name": (token(name="tunesmith-/../team-b/hf"), FORM),
    "a tracker's Secret that is not for jobs": (tracker(tokenSecretRef={"name": "database"}), NOT_FOR_JOBS),
    "a Secret in a variable": (variable("NCCL_DEBUG", valueFrom={"secretKeyRef": {"name": "database"}}), UNKNOWN),
    "all of a Secret": (pod(envFrom=[{"secretRef": {"name": "database"}}]), UNKNOWN),
    "a registry's Secret elsewhere": (pod(imagePullSecrets=[{"name": "x", "namespace": "team-b"}]), UNKNOWN),
    "a registry's Secret elsewhere for all pods": (
        {"spec.pods.default": {"imagePullSecrets": [{"name": "x", "namespace": "team-b"}]}},
        UNKNOWN,
    ),
    "a Secret as a dataset": ({f"{DATA}.secret": {"name": "database"}}, UNKNOWN),
    "a ConfigMap of another namespace": (config_map(namespace="team-b"), UNKNOWN),
    # files
    "a path that leads up": ({f"{DATA}.volume.path": "../team-b/data/faq.json"}, LEADS_OUT),
    "a path that leads up in the middle": ({"spec.model.volume.path": "models/../../team-b/x"}, LEADS_OUT),
    "an absolute path": ({f"{DATA}.volume.path": "/etc/passwd"}, LEADS_OUT),
    "a GGUF elsewhere": ({"spec.model": {"gguf": {"path": "/root/.ollama/x.gguf"}}}, LEADS_OUT),
    "another team's folder of a claim": ({"spec.storage": {"subPath": "../team-b"}}, LEADS_OUT),
    "all folders of a claim": ({"spec.storage": {"subPath": "/"}}, LEADS_OUT),
    "another namespace's claim": ({"spec.storage": {"claimName": "team-b/tunesmith"}}, FORM),
    "another namespace's job": ({"spec.model": {"job": {"name": "bot", "namespace": "team-b"}}}, UNKNOWN),
    "another namespace's job by its name": ({"spec.model": {"job": {"name": "team-b/bot"}}}, FORM),
    "a path of the host": ({"spec.storage": {"hostPath": {"path": "/"}}}, UNKNOWN),
    "a volume of its own": (pod(volumes=[{"name": "all", "hostPath": {"path": "/"}}]), UNKNOWN),
    "root": ({"spec.storage": {"runAsUser": 0}}, SMALLEST),
    "root's group": ({"spec.storage": {"supplementalGroups": [0]}}, SMALLEST),
    # addresses
    "a hub of its own": (hub(endpoint=ELSEWHERE), UNKNOWN),
    "a hub by the repository's name": (hub(repo="https://example.com/a"), FORM),
    "an Ollama of its own": ({"spec.ollama.url": ELSEWHERE}, UNKNOWN),
    "an Ollama by the server's name": ({"spec.ollama.servers": [ELSEWHERE]}, FORM),
    "a tracker of its own": (tracker(url=ELSEWHERE), UNKNOWN),
    "HF_ENDPOINT": (variable("HF_ENDPOINT"), FORM),
    "HTTP_PROXY": (variable("HTTP_PROXY"), FORM),
    "HTTPS_PROXY": (variable("HTTPS_PROXY"), FORM),
    "ALL_PROXY": (variable("ALL_PROXY"), FORM),
    "OLLAMA_HOST": (variable("OLLAMA_HOST"), FORM),
    "MLFLOW_TRACKING_URI": (variable("MLFLOW_TRACKING_URI"), FORM),
    "TUNESMITH_CA_FILE": (variable("TUNESMITH_CA_FILE"), FORM),
    "NCCL_COMM_ID": (variable("NCCL_COMM_ID"), "must not be a variable"),
    "NCCL_RAS_ADDR": (variable("NCCL_RAS_ADDR"), "must not be a variable"),
    "UCX_ERROR_MAIL_TO": (variable("UCX_ERROR_MAIL_TO"), "must not be a variable"),
    # code
    "LD_PRELOAD": (variable("LD_PRELOAD"), FORM),
    "PYTHONPATH": (variable("PYTHONPATH"), FORM),
    "PATH": (variable("PATH"), FORM),
    "NCCL_NET_PLUGIN": (variable("NCCL_NET_PLUGIN"), "must not be a variable"),
    "another image": (pod(image="example.com/any:1"), UNKNOWN),
    "another command": (pod(command=["sh"]), UNKNOWN),
    "a container before": (pod(initContainers=[{"name": "x", "image": "example.com/any:1"}]), UNKNOWN),
    "a sidecar": (note("sidecar.istio.io/proxyImage", "example.com/any:1"), INJECTS),
    "a hypervisor": (note("io.katacontainers.config.hypervisor.path", "/x"), INJECTS),
    # what pods are
    "all GPUs": (variable("NVIDIA_VISIBLE_DEVICES"), FORM),
    "privileges": (pod(securityContext={"privileged": True}), UNKNOWN),
    "the host's network": (pod(hostNetwork=True), UNKNOWN),
    "another namespace's network": (note("k8s.v1.cni.cncf.io/networks", "team-b/net"), INJECTS),
    "an account": (pod(serviceAccountName="admin"), UNKNOWN),
    "a token of the cluster": (pod(automountServiceAccountToken=True), UNKNOWN),
    "a node by its name": (pod(nodeName="control-plane"), UNKNOWN),
    "a scheduler for other stages": ({"spec.pods.fetch": {"schedulerName": "x"}}, UNKNOWN),
    "the cluster's own priority": (
        {"spec.scheduling": {"priorityClassName": "system-node-critical"}},
        "must not begin with `system-`",
    ),
    "the traffic of a Service": (pod(labels={"app": "shop"}), PLAIN_LABEL),
    "the place of another job's pod": (pod(labels={"tunesmith.dev/uid": "x"}), KEPT),
    "the place of a Job's pod": (pod(labels={"batch.kubernetes.io/job-name": "x"}), KEPT),
    "no seccomp": (note("seccomp.security.alpha.kubernetes.io/pod", "unconfined"), KEPT),
    # models
    "a model that is being proven": ({"spec.ollama.model": "tunesmith-check-x"}, "must not begin with"),
    "a way out of the names": ({"spec.ollama.model": "team-a/../team-b"}, FORM),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_what_a_job_cannot_ask_for(jobs: Jobs, name: str) -> None:
    """The API server refuses a FineTuneJob that wants a Secret, a file, an address, a privilege that is not its own."""
    changes, told = ATTEMPTS[name]
    with pytest.raises(RefusedError) as refused:
        jobs.create(job_data(changes), dry=True)
    said = f"{refused.value} {refused.value.causes}"
    assert told in said or (told == FORM and "should match" in said), said


UNKNOWN_FIELDS: Mapping[str, str] = {
    "a Secret of another namespace": "spec.model.huggingFace.tokenSecretRef.namespace",
    "a Secret in a variable": "spec.pods.train.env.0.valueFrom",
    "all of a Secret": "spec.pods.train.envFrom",
    "a registry's Secret elsewhere": "spec.pods.train.imagePullSecrets.0.namespace",
    "a registry's Secret elsewhere for all pods": "spec.pods.default.imagePullSecrets.0.namespace",
    "a Secret as a dataset": f"{DATA}.secret",
    "a ConfigMap of another namespace": f"{DATA}.configMap.namespace",
    "another namespace's job": "spec.model.job.namespace",
    "a path of the host": "spec.storage.hostPath",
    "a volume of its own": "spec.pods.train.volumes",
    "a hub of its own": "spec.model.huggingFace.endpoint",
    "an Ollama of its own": "spec.ollama.url",
    "a tracker of its own": "spec.training.tracking.url",
    "another image": "spec.pods.train.image",
    "another command": "spec.pods.train.command",
    "a container before": "spec.pods.train.initContainers",
    "privileges": "spec.pods.train.securityContext",
    "the host's network": "spec.pods.train.hostNetwork",
    "an account": "spec.pods.train.serviceAccountName",
    "a token of the cluster": "spec.pods.train.automountServiceAccountToken",
    "a node by its name": "spec.pods.train.nodeName",
    "a scheduler for other stages": "spec.pods.fetch.schedulerName",
}
"""What is not known in each of these attempts."""


def with_and_without(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the job of an attempt, and the same without its unknown field."""
    data = job_data(ATTEMPTS[name][0])
    without = copy.deepcopy(data)
    *parents, last = UNKNOWN_FIELDS[name].split(".")
    place: Any = without
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    del place[last]
    return data, without


def test_every_unknown_field_is_looked_at() -> None:
    """No attempt with an unknown field is left out below."""
    assert UNKNOWN_FIELDS.keys() == {name for name, (_, told) in ATTEMPTS.items() if told == UNKNOWN}


@pytest.mark.parametrize("name", UNKNOWN_FIELDS)
def test_unknown_fields_are_not_stored(jobs: Jobs, name: str) -> None:
    """A client that does not mind unknown fields gets a job without them."""
    data, without = with_and_without(name)
    stored = jobs.create(data, dry=True, validation="Ignore")
    assert stored["spec"] == jobs.create(without, dry=True)["spec"]


@pytest.mark.parametrize("name", UNKNOWN_FIELDS)
def test_unknown_fields_reach_nothing_that_is_made(name: str) -> None:
    """Where an unknown field is stored (a CRD that is newer) all that the operator makes is as it is without it."""
    data, without = with_and_without(name)
    asked, warnings = parse_object(data)
    assert warnings == [re.sub(r"\.(\d+)", r"[\1]", UNKNOWN_FIELDS[name])], "the operator tells of it"
    plain, nothing = parse_object(without)
    assert nothing == []
    made = manifests_of(asked, SETTINGS)
    assert {item["kind"] for item in made} >= {"ConfigMap", "Job"}
    assert made == manifests_of(plain, SETTINGS)
    assert reader_of(data, SETTINGS) == reader_of(without, SETTINGS)


SETTINGS = parse_settings(
    """
stageImage: stages:1
servers:
- {name: main, url: "http://ollama:11434", modelNamePrefix: "{namespace}/"}
- {name: production, url: "http://production:11434", allowedNamespaces: [team-b]}
- {name: shared, url: "http://shared:11434"}
trackers: {mlflow: "http://mlflow:5000"}
"""
)
NOT_FOR_IT: Mapping[str, tuple[dict[str, Any], str]] = {
    "another team's model": ({"spec.ollama.model": "team-b/bot"}, "ModelNameNotAllowed"),
    "a name that only looks like the team's": ({"spec.ollama.model": "team-ab/bot"}, "ModelNameNotAllowed"),
    "another team's model by a host": ({"spec.ollama.model": "registry.ollama.ai/team-a/bot"}, "ModelNameNotAllowed"),
    "another team's server": ({"spec.ollama.servers": ["production"]}, "ServerNotAllowed"),
    "a server that nobody defined": ({"spec.ollama.servers": ["any"]}, "ServerNotAllowed"),
    "Exec where it was not set up": (
        {"spec.ollama.model": "team-a/bot", "spec.ollama.method": "Exec"},
        "ExecNotConfigured",
    ),
}


@pytest.mark.parametrize("name", NOT_FOR_IT)
def test_what_the_administrator_does_not_allow(jobs: Jobs, name: str) -> None:
    """What only the administrator's settings can tell is taken by the API server, and refused by the operator."""
    changes, reason = NOT_FOR_IT[name]
    stored = jobs.create(job_data(changes), dry=True)
    found = obstacle(parse_object(stored)[0], TEAM, SETTINGS)
    assert found is not None
    assert found[0] == reason


def test_what_the_administrator_allows(jobs: Jobs) -> None:
    """A team's own name on a server of all is taken."""
    stored = jobs.create(job_data({"spec.ollama.model": "team-a/bot"}), dry=True)
    assert obstacle(parse_object(stored)[0], TEAM, SETTINGS) is None


# --- Pod Security ----------------------------------------------------------------------------------------------------


def pods_of(asked: FineTuneJob, settings: Settings) -> list[dict[str, Any]]:
    """Return every pod that the operator and the kubectl plugin can make for a job."""
    made = [_pod_in(item["spec"]["template"]) for item in manifests_of(asked, settings) if item["kind"] == "Job"]
    return [*made, reader_of(asked.model_dump(mode="json", by_alias=True, exclude_none=True), settings)]


def manifests_of(asked: FineTuneJob, settings: Settings) -> list[dict[str, Any]]:
    """Return all that the operator can make for a job: ConfigMaps, Services and Jobs."""
    children = [form for child in children_on_paper(asked, TEAM, settings.stage_image) for form in _forms_of(child)]
    return [item for child in children for item in child_manifests(child, settings)]


def reader_of(data: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the pod that the kubectl plugin makes for a job, as the API server has that."""
    meta = {"name": data["metadata"]["name"], "namespace": TEAM, "uid": "u"}
    storage = Storage(claimName="tunesmith")
    reader = log_reader_pod({**data, "metadata": meta}, "x", image=settings.stage_image, storage=storage)
    del reader["metadata"]["ownerReferences"]  # of a FineTuneJob that is not there
    return reader


def _forms_of(child: Child) -> Iterator[Child]:
    """Yield a child as it makes something, looks something up, or removes something."""
    yield child
    yield replace(child, lookup=True)
    if child.stage.name is StageName.REGISTER:
        names = {name: ["bot"] for name in child.job.spec.ollama.servers}
        runtime = {**child.stage.runtime, "names": names}
        yield replace(child, removes=True, stage=replace(child.stage, runtime=runtime))


def _pod_in(template: Mapping[str, Any]) -> dict[str, Any]:
    meta = {**template["metadata"], "generateName": "pod-", "namespace": TEAM}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}


def _jobs() -> Iterator[tuple[str, FineTuneJob, Settings]]:
    settings = parse_settings((EVERYTHING / "settings.yaml").read_text(encoding="utf-8"))
    servers = settings.servers[0]
    main = settings.model_copy(update={"servers": (servers.model_copy(update={"name": "main"}),)})
    for path in sorted(ROOT.glob("examples/*/finetunejob.yaml")):
        yield path.parent.name, parse_job(path.read_text(encoding="utf-8")), main
    tracked = main.model_copy(update={"trackers": SETTINGS.trackers})
    yield "every field", parse_job(EXAMPLE.read_text(encoding="utf-8")), tracked
    yield "everything of pods", parse_job((EVERYTHING / "finetunejob.yaml").read_text(encoding="utf-8")), settings
    yield "as little as possible", job(), SETTINGS


JOBS = {name: (asked, settings) for name, asked, settings in _jobs()}


@pytest.mark.parametrize("name", JOBS)
def test_every_pod_is_admitted_where_pods_are_restricted(server: ApiServer, name: str) -> None:
    """The API server takes each pod in a namespace that enforces Pod Security `restricted`."""
    asked, settings = JOBS[name]
    pods = pods_of(asked, settings)
    assert len(pods) >= 6
    assert admitted(server, pods) == len(pods)


CHARTS: Mapping[str, Values] = {**VARIANTS, "clean-ups": {"gc": {"volumes": [{"namespace": TEAM}]}}}


@pytest.mark.parametrize("name", CHARTS)
def test_every_pod_of_the_chart_is_admitted(server: ApiServer, tmp_path: Path, name: str) -> None:
    """The same holds for the pods of the chart: the operator, the trial Ollama, and what runs at times."""
    rendered = Helm("helm4", tmp_path).render(CHARTS[name])
    pods = [_pod_in(template) for manifest in rendered for template in _templates_in(manifest)]
    assert pods
    assert admitted(server, pods) == len(pods)


def _templates_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every pod template in an object, whatever its kind."""
    if isinstance(value, dict):
        spec = value.get("spec") or {}
        for claim in spec.get("volumeClaimTemplates") or ():  # a StatefulSet gives its pods a volume for each
            spec["template"]["spec"]["volumes"].append({"name": claim["metadata"]["name"], "emptyDir": {}})
        if "containers" in spec:
            yield {"metadata": {}, **value}
            return
        for item in value.values():
            yield from _templates_in(item)


def admitted(server: ApiServer, pods: list[dict[str, Any]]) -> int:
    """Return how many of these pods the API server would create."""
    return server.kubectl("create", "--dry-run=server", "--filename=-", objects=pods).count("created (server dry run)")


def test_the_namespace_restricts(server: ApiServer) -> None:
    """A pod with the host's network, and one of root, is refused there: what is admitted was looked at."""
    (*_, pod) = pods_of(job(), SETTINGS)
    for harm in ({"hostNetwork": True}, {"securityContext": {"runAsUser": 0}}):
        with pytest.raises(Exception, match="non-zero exit") as refused:
            admitted(server, [{**pod, "spec": {**pod["spec"], **harm}}])
        assert "violates PodSecurity" in refused.value.stderr  # type: ignore[attr-defined]
