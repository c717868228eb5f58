"""The Kubernetes objects of a stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from support.builders import job, job_data
from support.pods import children, pods_in, require_bounds, require_restricted, settings
from tunesmith.api import keys
from tunesmith.api.pods import Storage
from tunesmith.api.settings import Settings
from tunesmith.core.manifests import (
    Child,
    ManifestError,
    child_manifests,
    child_name,
    effective_storage,
    log_reader_pod,
)
from tunesmith.core.manifests.paper import children_on_paper
from tunesmith_stages.contract import UNITS_PER_PROGRAM, StageConfig, StageName

TWO_NODES = {"spec.training.nodes": 2}
EXEC = {"spec.ollama.method": "Exec"}


def made(child: Child, given: Settings | None = None) -> dict[str, dict[str, Any]]:
    """Return a child's objects by their kind."""
    return {manifest["kind"]: manifest for manifest in child_manifests(child, given or settings())}


def job_of(stage: StageName, changes: Mapping[str, Any] | None = None, given: Settings | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = made(children(changes)[stage], given)["Job"]["spec"]
    return spec


def pod_of(stage: StageName, changes: Mapping[str, Any] | None = None, given: Settings | None = None) -> dict[str, Any]:
    pod: dict[str, Any] = job_of(stage, changes, given)["template"]["spec"]
    return pod


def env_of(pod: Mapping[str, Any]) -> dict[str, Any]:
    variables = pod["containers"][0]["env"]
    names = [variable["name"] for variable in variables]
    assert len(names) == len(set(names))
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in variables}


def config_of(child: Child, given: Settings | None = None) -> StageConfig:
    return StageConfig.from_json(made(child, given)["ConfigMap"]["data"]["stage.json"])


# --- names and belonging ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a", "support-bot", "1-begins-with-a-digit", "9", "a" * 52, "0" * 52, "x" * 29 + "-" + "y" * 22, f"7{'-' * 28}y"],
)
@pytest.mark.parametrize("lookup", [False, True])
def test_names_fit(name: str, lookup: bool) -> None:
    """Every name is one that a Service may have, and leaves room for the pods' numbers, after 999 attempts too."""
    for child in children({"metadata.name": name, **TWO_NODES}).values():
        made_name = child_name(replace(child, attempt=999, lookup=lookup))
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", made_name)
        assert "--" not in made_name or "--" in name
        assert len(made_name) <= 59


def test_name_follows_from_what_is_made() -> None:
    """The same try has the same name everywhere; another job, key, attempt or a look-up has another one."""
    child = children()[StageName.TRAIN]
    unit = replace(child.units[0], key="0" * 64)
    others = [
        replace(child, uid="1"),
        replace(child, attempt=2),
        replace(child, lookup=True),
        replace(child, stage=replace(child.stage, missing=(unit,))),
    ]
    assert child_name(child) == child_name(children()[StageName.TRAIN])
    assert len({child_name(item) for item in (child, *others)}) == 5


def test_what_all_objects_carry() -> None:
    """Every object and pod says whose it is, for which stage and keys, and goes with its FineTuneJob."""
    child = children(TWO_NODES)[StageName.TRAIN]
    objects = child_manifests(child, settings())
    assert [item["kind"] for item in objects] == ["ConfigMap", "Service", "Job"]
    for item in objects:
        meta = item["metadata"]
        assert (meta["name"], meta["namespace"]) == (child_name(child), "team-a")
        (owner,) = meta["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == (keys.KIND, "support-bot", child.uid)
        assert owner["controller"] is owner["blockOwnerDeletion"] is True
    for meta in (*(item["metadata"] for item in objects), objects[-1]["spec"]["template"]["metadata"]):
        labels, notes = meta["labels"], meta["annotations"]
        assert labels["app.kubernetes.io/component"] == labels[keys.STAGE_LABEL] == "train"
        assert labels["app.kubernetes.io/name"] == labels["app.kubernetes.io/managed-by"] == "tunesmith"
        assert (labels[keys.JOB_LABEL], labels[keys.UID_LABEL]) == ("support-bot", child.uid)
        assert labels[keys.ATTEMPT_LABEL] == "1"
        assert notes[keys.KEYS_ANNOTATION] == child.units[0].key
        assert keys.LOOKUP_ANNOTATION not in notes


def test_further_labels_of_pods() -> None:
    """Labels and annotations that are added to pods stand beside ours."""
    given = settings(podDefaults={"default": {"labels": {"team": "a"}, "annotations": {"note": "b"}}})
    meta = job_of(StageName.FETCH, given=given)["template"]["metadata"]
    assert meta["labels"]["team"] == "a"
    assert meta["annotations"]["note"] == "b"
    assert meta["labels"][keys.STAGE_LABEL] == "fetch"


# --- the input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", StageName)
def test_stage_json(stage: StageName) -> None:
    """The ConfigMap holds a stage.json that the program reads, with what the plan says and what follows."""
    child = children()[stage]
    config_map = made(child)["ConfigMap"]
    config = config_of(child)
    assert config_map["immutable"] is True
    assert set(config_map["data"]) == {"stage.json"}
    assert (config.stage, config.job, config.volume) == (stage, "support-bot", "/volume")
    assert [unit.key for unit in config.units] == [unit.key for unit in child.stage.missing]
    assert (config.later, dict(config.known)) == (child.later, dict(child.known))
    estimate = {"estimate": {**child.stage.runtime["estimate"], "gpuMemoryBytes": None}} if stage == "rehearse" else {}
    runtime = {**child.stage.runtime, **estimate}
    assert {name: config.runtime[name] for name in runtime} == runtime


def test_what_the_operator_adds_to_the_runtime() -> None:
    """`fetch` finds the versions of its sources, `train` knows its grace period, the others get nothing but servers."""
    added = {
        stage: {
            name: value
            for name, value in config_of(child).runtime.items()
            if child.stage.runtime.get(name, "none") != value
        }
        for stage, child in children().items()
    }
    estimate = added[StageName.REHEARSE].pop("estimate")
    assert estimate == {**children()[StageName.REHEARSE].stage.runtime["estimate"], "gpuMemoryBytes": None}
    servers = {"servers": {"main": {"url": "http://ollama:11434", "caBundle": "", "exec": None}}}
    assert added == {
        StageName.FETCH: {"resolve": True, "tokens": {}, "configMaps": {}},
        StageName.PREPARE: {},
        StageName.REHEARSE: servers,
        StageName.TRAIN: {"graceSeconds": 300},
        StageName.CONVERT: {},
        StageName.QUANTIZE: {},
        StageName.REGISTER: servers,
    }


def test_memory_of_the_gpus() -> None:
    """What the administrator says of the GPUs is what `rehearse` compares the need of memory with."""
    runtime = config_of(children()[StageName.REHEARSE], settings(gpuMemory="80Gi")).runtime
    assert runtime["estimate"]["gpuMemoryBytes"] == 80 * 2**30


OF_HUBS = {
    "spec.model": {"huggingFace": {"repo": "a/b", "tokenSecretRef": {"name": "tunesmith-hf"}}},
    "spec.datasets": [
        {"name": "open", "modelScope": {"repo": "a/c"}},
        {"name": "gated", "modelScope": {"repo": "a/d", "tokenSecretRef": {"name": "tunesmith-ms", "key": "t"}}},
        {"name": "small", "configMap": {"name": "faq", "key": "faq.jsonl"}},
    ],
}


def test_tokens_come_from_secrets_by_the_kubelet() -> None:
    """Only the pod that downloads has a hub's token, each source its own; stage.json names the variable."""
    child = children(OF_HUBS)[StageName.FETCH]
    tokens = config_of(child).runtime["tokens"]
    assert tokens.keys() == {"base", "dataset:gated"}
    (container,) = made(child)["Job"]["spec"]["template"]["spec"]["containers"]
    environment = {item["name"]: item for item in container["env"]}
    wanted = {"base": {"name": "tunesmith-hf", "key": "token"}, "dataset:gated": {"name": "tunesmith-ms", "key": "t"}}
    assert {unit: environment[name]["valueFrom"]["secretKeyRef"] for unit, name in tokens.items()} == wanted
    for stage in StageName:
        if stage is not StageName.FETCH:
            assert "secretKeyRef" not in str(made(children(OF_HUBS)[stage]))


def test_a_pod_gets_only_what_its_units_need() -> None:
    """A Secret or ConfigMap that is gone holds nothing up that does not need it: a look-up, or another source."""
    child = children(OF_HUBS)[StageName.FETCH]
    looks_up = replace(child, lookup=True)
    assert "secretKeyRef" not in str(made(looks_up))
    assert config_of(looks_up).runtime["tokens"] == {}
    rest = [unit for unit in child.units if unit.name == "dataset:gated"]
    later = replace(child, stage=replace(child.stage, missing=tuple(rest)))
    assert config_of(later).runtime["tokens"].keys() == {"dataset:gated"}
    assert config_of(later).runtime["configMaps"] == {}
    assert "tunesmith-hf" not in str(made(later)["Job"])
    assert "'faq'" not in str(made(later)["Job"])


def test_config_maps_are_mounted() -> None:
    """A dataset in a ConfigMap is one file in the pod of `fetch`; no other key of it is there."""
    child = children(OF_HUBS)[StageName.FETCH]
    file = config_of(child).runtime["configMaps"]["dataset:small"]
    volumes = {item["name"]: item for item in made(child)["Job"]["spec"]["template"]["spec"]["volumes"]}
    (container,) = made(child)["Job"]["spec"]["template"]["spec"]["containers"]
    mount = next(item for item in container["volumeMounts"] if file.startswith(item["mountPath"] + "/"))
    assert mount["readOnly"] is True
    wanted = {"name": "faq", "items": [{"key": "faq.jsonl", "path": "faq.jsonl"}]}
    assert volumes[mount["name"]]["configMap"] == wanted
    assert file == f"{mount['mountPath']}/faq.jsonl"


def test_at_most_as_many_units_as_a_report_holds() -> None:
    """A Job is given no more units than its report has room for; the rest gets a Job of its own."""
    datasets = [{"name": f"d{number}", "volume": {"path": f"d{number}.json"}} for number in range(20)]
    many = job({"spec.datasets": datasets})
    fetches = [child for child in children_on_paper(many, "team-a", "stages:1") if child.stage.name is StageName.FETCH]
    assert [len(config_of(child).units) for child in fetches] == [UNITS_PER_PROGRAM, 21 - UNITS_PER_PROGRAM]
    assert len({unit.key for child in fetches for unit in config_of(child).units}) == 21
    assert len({child_name(child) for child in fetches}) == 2


def test_servers_of_the_job() -> None:
    """A stage is told of the job's servers alone; the folder that Ollama's pod mounts is that of the namespace."""
    pod = {"namespace": "ai", "pod": "ollama-0", "container": "ollama", "volumeMountPath": "/mnt/{namespace}/"}
    certificate = "-----BEGIN CERTIFICATE-----\n"
    servers = [
        {"name": "main", "url": "https://a", "caBundle": certificate, "allowedNamespaces": ["team-a"], "exec": pod},
        {"name": "other", "url": "http://b"},
    ]
    given = settings(servers=servers, execServiceAccount="tunesmith-exec")
    changes = {**EXEC, "spec.storage.subPath": "trials"}
    runtime = config_of(children(changes)[StageName.REGISTER], given).runtime
    assert runtime["servers"] == {
        "main": {"url": "https://a", "caBundle": certificate, "exec": {**pod, "volumeMountPath": "/mnt/team-a/trials"}}
    }


def test_certificates() -> None:
    """The administrator's certificates lie beside stage.json, and every stage is told where."""
    given = settings(network={"caBundle": "-----BEGIN CERTIFICATE-----"})
    for stage, child in children().items():
        assert made(child, given)["ConfigMap"]["data"]["ca.crt"] == "-----BEGIN CERTIFICATE-----"
        variables = env_of(pod_of(stage, given=given))
        assert variables["TUNESMITH_CA_FILE"] == "/etc/tunesmith/ca.crt"
        assert "SSL_CERT_FILE" not in variables, "it would take the place of the public authorities"
    assert "TUNESMITH_CA_FILE" not in env_of(pod_of(StageName.FETCH))


# --- Jobs ------------------------------------------------------------------------------------------------------------


def on_disruption(action: str) -> dict[str, Any]:
    return {"rules": [{"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}


@pytest.mark.parametrize("stage", StageName)
def test_every_job_is_tried_once(stage: StageName) -> None:
    """Kubernetes replaces a pod that was evicted, and tries nothing again otherwise: that is the operator's."""
    spec = job_of(stage)
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (1, 1, 0)
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["podFailurePolicy"] == on_disruption("Ignore")
    assert spec["completionMode"] == ("Indexed" if stage is StageName.TRAIN else "NonIndexed")
    # The operator removes it once the FineTuneJob is done: Kubernetes would, before its report is read, or mid-way.
    assert not {"suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished"} & spec.keys()


def test_training_on_several_nodes() -> None:
    """Pods of one training end together, find the first one by name before it is ready, and prefer other machines."""
    objects = made(children(TWO_NODES)[StageName.TRAIN])
    spec, service = objects["Job"]["spec"], objects["Service"]["spec"]
    name = objects["Job"]["metadata"]["name"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    assert spec["podFailurePolicy"] == on_disruption("FailJob")
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    pod_labels = {**spec["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": name}
    assert service["selector"].items() <= pod_labels.items()
    pod = spec["template"]["spec"]
    variables = env_of(pod)
    assert pod["subdomain"] == objects["Service"]["metadata"]["name"]
    assert variables["TUNESMITH_MASTER_ADDR"] == f"{name}-0.{name}.team-a.svc"
    assert variables["TUNESMITH_MASTER_PORT"] == str(service["ports"][0]["port"])
    assert variables["TUNESMITH_ATTEMPT"] == name
    (wish,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert wish["podAffinityTerm"]["labelSelector"]["matchLabels"].items() <= pod_labels.items()


def test_only_the_training_takes_several_nodes() -> None:
    """`training.nodes` changes no other stage."""
    for stage in set(StageName) - {StageName.TRAIN}:
        assert set(made(children(TWO_NODES)[stage])) == {"ConfigMap", "Job"}
        assert job_of(stage, TWO_NODES)["completions"] == 1


def test_queue_deadline_and_priority() -> None:
    """Only the training queues and has a deadline; the priority is that of all pods."""
    changes = {
        "spec.scheduling": {"queueName": "team-a", "priorityClassName": "batch"},
        "spec.activeDeadlineSeconds": 3600,
    }
    given = settings(podDefaults={"default": {"priorityClassName": "low"}})
    for stage, child in children(changes).items():
        manifest = made(child, given)["Job"]
        trains = stage is StageName.TRAIN
        assert manifest["metadata"]["labels"].get(keys.QUEUE_LABEL) == ("team-a" if trains else None)
        assert manifest["spec"].get("suspend") == (True if trains else None)
        assert "activeDeadlineSeconds" not in manifest["spec"], "a Job's time begins before its pods have a place"
        pod = manifest["spec"]["template"]["spec"]
        assert pod.get("activeDeadlineSeconds") == (3600 if trains else None)
        assert manifest["spec"]["template"]["spec"]["priorityClassName"] == "batch"


@pytest.mark.parametrize(
    ("measured", "said", "grace"),
    [(None, None, 300), (900, None, 900), (900, 120, 120)],
    ids=["nothing known", "measured", "said by the job"],
)
def test_grace_of_a_training(measured: int | None, said: int | None, grace: int) -> None:
    """A training may take as long to save as was measured or said, and its program is told how long that is."""
    changes = {"spec.pods.train.terminationGracePeriodSeconds": said} if said else {}
    child = replace(children(changes)[StageName.TRAIN], grace=measured)
    assert made(child)["Job"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == grace
    assert config_of(child).runtime["graceSeconds"] == grace


# --- pods ------------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as little as possible": ({}, {}),
    "two nodes with GPUs": ({**TWO_NODES, "spec.training.gpusPerNode": 4}, {}),
    "exec": (EXEC, {"execServiceAccount": "tunesmith-exec"}),
    "own user": ({"spec.storage": {"runAsUser": 5, "runAsGroup": 6, "supplementalGroups": [7]}}, {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lookup", [False, True], ids=["stage", "lookup"])
def test_every_pod_is_restricted_and_bounded(case: str, lookup: bool) -> None:
    """No pod needs more than the standard "restricted" allows, and each says what it needs and takes at most."""
    changes, given = CASES[case]
    for child in children(changes).values():
        for pod in pods_in([*child_manifests(replace(child, lookup=lookup), settings(**given))]):
            require_restricted(pod)
            require_bounds(pod)
            assert pod["restartPolicy"] == "Never"
            assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("stage", StageName)
def test_how_the_program_is_started(stage: StageName) -> None:
    """The program is told where its input is, who it is, and where to report; all that it can write to is mounted."""
    pod = pod_of(stage)
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", f"tunesmith_stages.{stage}"]
    assert container["args"] == [
        *("--config", "/etc/tunesmith/stage.json", "--report", "/dev/termination-log"),
        *("--attempt", "$(TUNESMITH_ATTEMPT)", "--log"),
    ]
    assert container["terminationMessagePath"] == "/dev/termination-log"
    assert container["image"] == "stages:1"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert mounts.items() >= {"volume": "/volume", "config": "/etc/tunesmith", "scratch": "/scratch"}.items()
    variables = env_of(pod)
    assert variables["TUNESMITH_ATTEMPT"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    written_to = ("HOME", "TMPDIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "MPLCONFIGDIR")
    assert all(variables[name].startswith("/scratch") for name in written_to)


def test_the_way_out_is_for_fetch_alone() -> None:
    """Proxies and hubs are known to `fetch` only; every other stage is told that there is no hub."""
    network = {
        "httpProxy": "http://proxy:1",
        "httpsProxy": "http://proxy:2",
        "noProxy": ".svc",
        "huggingFaceEndpoint": "https://hub",
        "modelScopeEndpoint": "https://scope",
    }
    way_out = {
        "HTTP_PROXY": "http://proxy:1",
        "HTTPS_PROXY": "http://proxy:2",
        "NO_PROXY": ".svc",
        "HF_ENDPOINT": "https://hub",
        "MODELSCOPE_ENDPOINT": "https://scope",
    }
    for stage, child in children().items():
        for lookup in (False, True):
            spec = made(replace(child, lookup=lookup), settings(network=network))["Job"]["spec"]
            variables = env_of(spec["template"]["spec"])
            fetches = stage is StageName.FETCH and not lookup
            assert (variables.items() >= way_out.items()) is fetches
            assert bool(way_out.keys() & variables.keys()) is fetches
            assert variables.get("HF_HUB_OFFLINE") == (None if fetches else "1")
    assert not way_out.keys() & env_of(pod_of(StageName.FETCH)).keys()


@pytest.mark.parametrize("stage", StageName)
def test_credentials_of_the_cluster(stage: StageName) -> None:
    """Only what runs commands in Ollama's pod gets a token, and only with the method Exec."""
    given = settings(execServiceAccount="tunesmith-exec")
    reaches = stage in {StageName.REHEARSE, StageName.REGISTER}
    by_exec, by_api = pod_of(stage, EXEC, given), pod_of(stage, given=given)
    assert by_exec["automountServiceAccountToken"] is reaches
    assert by_exec.get("serviceAccountName") == ("tunesmith-exec" if reaches else None)
    assert by_api["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in by_api
    looks_up = made(replace(children(EXEC)[stage], lookup=True), given)["Job"]["spec"]["template"]["spec"]
    assert looks_up["automountServiceAccountToken"] is False


def test_lookup() -> None:
    """Looking up a training's result takes no GPU, no queue and no second pod; the input is the same."""
    changes = {
        **TWO_NODES,
        "spec.training.gpusPerNode": 8,
        "spec.scheduling.queueName": "team-a",
        "spec.pods.train": {"nodeSelector": {"gpu": "h100"}, "runtimeClassName": "nvidia"},
        "spec.pods.default": {"nodeSelector": {"zone": "east"}},
    }
    child = replace(children(changes)[StageName.TRAIN], lookup=True)
    objects = made(child)
    assert set(objects) == {"ConfigMap", "Job"}
    manifest, pod = objects["Job"], objects["Job"]["spec"]["template"]["spec"]
    assert manifest["metadata"]["name"].endswith("-1-lookup")
    assert manifest["metadata"]["annotations"][keys.LOOKUP_ANNOTATION] == "true"
    assert keys.QUEUE_LABEL not in manifest["metadata"]["labels"]
    assert (manifest["spec"]["completions"], manifest["spec"]["completionMode"]) == (1, "NonIndexed")
    (container,) = pod["containers"]
    assert container["command"][-1] == "tunesmith_stages.lookup"
    assert container["args"] == ["--config", "/etc/tunesmith/stage.json", "--report", "/dev/termination-log"]
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert pod["nodeSelector"] == {"zone": "east"}
    assert "runtimeClassName" not in pod
    assert config_of(child).units == child.units


# --- storage ---------------------------------------------------------------------------------------------------------

NAMESPACED = {
    "default": {"claimName": "shared", "runAsUser": 1000},
    "namespaces": {"team-a": {"subPath": "{namespace}"}},
}


@pytest.mark.parametrize(
    ("said", "claim", "folder"),
    [
        ({}, "shared", "team-a"),
        ({"subPath": "trials"}, "shared", "team-a/trials"),
        ({"claimName": "shared", "subPath": "trials"}, "shared", "team-a/trials"),
        ({"claimName": "mine"}, "mine", None),
        ({"claimName": "mine", "subPath": "trials"}, "mine", "trials"),
    ],
    ids=["administrator's", "below it", "claim named again", "own claim", "folder of an own claim"],
)
def test_the_volume(said: dict[str, str], claim: str, folder: str | None) -> None:
    """A job's folder lies below the one that the administrator gave its namespace, unless it has a claim of its own."""
    pod = pod_of(StageName.CONVERT, {"spec.storage": said}, settings(storage=NAMESPACED))
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "volume")
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "volume")
    assert volume["persistentVolumeClaim"] == {"claimName": claim}
    assert mount.get("subPath") == folder
    assert pod["securityContext"]["runAsUser"] == 1000


def test_users_that_the_cluster_chooses() -> None:
    """Where the administrator names no user, as OpenShift wants it, pods ask for none, and still never run as root."""
    given = settings(storage={"default": {"runAsUser": None, "runAsGroup": None}})
    stage = pod_of(StageName.CONVERT, given=given)
    require_restricted(stage)
    assert not {"runAsUser", "runAsGroup"} & stage["securityContext"].keys()
    storage = effective_storage(job(), "team-a", given)
    item = job_data({"metadata": {"name": "support-bot", "namespace": "team-a", "uid": "1-2"}})
    reader = log_reader_pod(item, "0a1b", image="stages:1", storage=storage)["spec"]
    assert reader["securityContext"] == stage["securityContext"]


# --- what cannot be --------------------------------------------------------------------------------------------------


def too_large() -> dict[str, Any]:
    return {"spec.ollama.smokeTests": [{"prompt": "x" * 65536, "expect": "y"} for _ in range(20)]}


@pytest.mark.parametrize(
    ("changes", "stage", "reason", "message"),
    [
        ({"spec.ollama.servers": ["main", "gone"]}, StageName.REGISTER, "UnknownServer", "defined: main; got 'gone'"),
        (EXEC, StageName.REGISTER, "ExecNotAllowed", "`spec.ollama.method` must be API"),
        (too_large(), StageName.REGISTER, "InputTooLarge", "must fit into a ConfigMap"),
    ],
    ids=["server", "exec", "size"],
)
def test_refusals(changes: dict[str, Any], stage: StageName, reason: str, message: str) -> None:
    """What no object can be made of is refused with the field, what is allowed, and what to do."""
    with pytest.raises(ManifestError, match=re.escape(message)) as refused:
        child_manifests(children(changes)[stage], settings())
    assert refused.value.reason == reason
    assert refused.value.field.startswith("spec")
    assert refused.value.hint


# --- logs ------------------------------------------------------------------------------------------------------------


def test_log_reader() -> None:
    """The pod that reads logs can change nothing, has an end, and is placed like the job's other pods."""
    name, tolerations = f"{'a' * 29}-{'b' * 20}", [{"key": "gpu", "operator": "Exists"}]
    changes = {
        "metadata": {"name": name, "namespace": "team-a", "uid": "1-2"},
        "spec.pods.default": {
            "imagePullSecrets": [{"name": "mirror"}, {"name": "own"}],
            "nodeSelector": {"zone": "east"},
            "tolerations": tolerations,
        },
    }
    storage = Storage.model_validate({"claimName": "mine", "subPath": "trials"})
    pod = log_reader_pod(
        job_data(changes),
        "0a1b",
        image="stages:1",
        storage=storage,
        pull_secrets=["admin", "mirror"],
        arguments=["--stage", "train"],
    )
    (spec,) = pods_in([pod])
    require_restricted(spec)
    require_bounds(spec)
    (container,) = spec["containers"]
    assert container["command"] == ["python", "-m", "tunesmith_stages.logs"]
    assert container["args"] == ["--volume", "/volume", "--job", name, "--stage", "train"]
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "volume")
    assert (mount["readOnly"], mount["subPath"]) == (True, "trials")
    assert spec["activeDeadlineSeconds"] == 600
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "admin"}, {"name": "mirror"}, {"name": "own"}]
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"zone": "east"}, tolerations)
    meta = pod["metadata"]
    assert (meta["name"], meta["namespace"]) == (f"{'a' * 29}-logs-0a1b", "team-a")
    (owner,) = meta["ownerReferences"]
    assert owner == {"apiVersion": "tunesmith.dev/v1alpha1", "kind": "FineTuneJob", "name": name, "uid": "1-2"}
    assert keys.UID_LABEL not in meta["labels"], "the operator would take it for a stage's"


def test_log_reader_is_the_same_user_as_the_stages() -> None:
    """Files that only the stages' user or groups may read are read: who they run as is taken from the status."""
    given = settings(
        storage={
            "default": {"claimName": "shared", "subPath": "jobs/{namespace}", "runAsUser": 2000, "runAsGroup": 3000},
            "namespaces": {"team-a": {"supplementalGroups": [4000, 5000]}},
        }
    )
    stage = pod_of(StageName.FETCH, given=given)
    storage = effective_storage(job(), "team-a", given)
    item = job_data({"metadata": {"name": "support-bot", "namespace": "team-a", "uid": "1-2"}})
    reader = log_reader_pod(item, "0a1b", image="stages:1", storage=storage)["spec"]
    assert reader["securityContext"] == stage["securityContext"]
    assert reader["securityContext"]["supplementalGroups"] == [4000, 5000]
    (theirs,) = (m for m in stage["containers"][0]["volumeMounts"] if m["name"] == "volume")
    (ours,) = (m for m in reader["containers"][0]["volumeMounts"] if m["name"] == "volume")
    assert {**ours, "readOnly": True} == {**theirs, "readOnly": True}
