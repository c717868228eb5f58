"""What pods are like: built in, as the administrator says, as the job says."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest

from support.pods import children, settings
from tunesmith.core.manifests import ManifestError, child_manifests
from tunesmith.core.manifests.layers import Layer, merge
from tunesmith.core.manifests.options import pod_options
from tunesmith.core.manifests.quantity import parse_quantity
from tunesmith_stages.contract import StageName

# --- quantities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("4", 4),
        ("500m", Fraction(1, 2)),
        ("1.5", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("2.", 2),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1.5Gi", 3 * 2**29),
        ("2Ei", 2**61),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E-2", Fraction(1, 100)),
        ("100n", Fraction(1, 10**7)),
    ],
)
def test_quantities(text: str, number: Fraction) -> None:
    """A quantity is read exactly, in all of Kubernetes' spellings."""
    assert parse_quantity(text) == number


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "1KiB", "--1", "1e", "1e999", "0x1", "1,5", "1\n", "١"])
def test_no_quantities(text: str) -> None:
    """What Kubernetes would not take is refused, and no exponent makes a number without bound."""
    with pytest.raises(ValueError, match="must be a quantity such as"):
        parse_quantity(text)


# --- merging ---------------------------------------------------------------------------------------------------------


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    return merge(Layer(f"layer {number}", values) for number, values in enumerate(layers))


def test_how_layers_merge() -> None:
    """Mappings merge by key, variables by name, lists are added up, the rest is replaced; empty says nothing."""
    weaker = {
        "labels": {"a": "1", "b": "1"},
        "tolerations": [{"key": "x"}, {"key": "y"}],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}],
        "schedulerName": "one",
        "nodeSelector": {"zone": "east"},
    }
    stronger = {
        "labels": {"b": "2"},
        "tolerations": [{"key": "y"}, {"key": "z"}],
        "env": [{"name": "B", "value": "2"}],
        "schedulerName": "two",
        "nodeSelector": {},
        "imagePullSecrets": [],
    }
    assert merged(weaker, stronger) == {
        "labels": {"a": "1", "b": "2"},
        "tolerations": [{"key": "x"}, {"key": "y"}, {"key": "z"}],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "schedulerName": "two",
        "nodeSelector": {"zone": "east"},
    }
    assert weaker["tolerations"] == [{"key": "x"}, {"key": "y"}]


def amounts(request: str | None = None, limit: str | None = None) -> dict[str, Any]:
    return {
        "resources": {
            "requests": {"memory": request} if request else {},
            "limits": {"memory": limit} if limit else {},
        }
    }


@pytest.mark.parametrize(
    ("layers", "request_", "limit"),
    [
        ([amounts("1Gi", "4Gi"), amounts()], "1Gi", "4Gi"),
        ([amounts("1Gi", "4Gi"), amounts("2Gi", "3Gi")], "2Gi", "3Gi"),
        ([amounts("1Gi", "4Gi"), amounts(limit="512Mi")], "512Mi", "512Mi"),
        ([amounts("1Gi", "4Gi"), amounts(limit="1024Mi")], "1Gi", "1024Mi"),
        ([amounts("1Gi", "4Gi"), amounts("8Gi")], "8Gi", "8Gi"),
        ([amounts("1Gi", "4Gi"), amounts("8Gi"), amounts(limit="2Gi")], "2Gi", "2Gi"),
        ([amounts("1Gi"), {}], "1Gi", "1Gi"),
        ([amounts(limit="4Gi")], "4Gi", "4Gi"),
    ],
    ids=[
        "nothing said",
        "both said",
        "limit below the default request",
        "the same in another unit",
        "request above the default limit",
        "three layers",
        "request only",
        "limit only",
    ],
)
def test_no_request_is_above_its_limit(layers: list[dict[str, Any]], request_: str, limit: str) -> None:
    """What the stronger layer says holds, and takes what a weaker one said with it."""
    assert merged(*layers)["resources"] == {"requests": {"memory": request_}, "limits": {"memory": limit}}


def test_a_layer_that_contradicts_itself() -> None:
    """Whoever asks for more than they allow is told which field, and both values."""
    with pytest.raises(ManifestError) as refused:
        merged(amounts("1Gi", "4Gi"), amounts("3Gi", "2Gi"))
    assert refused.value.message == (
        "`layer 1.resources.requests.memory` must not be above `limits.memory`, which is 2Gi, got 3Gi"
    )


# --- layers ----------------------------------------------------------------------------------------------------------

LAYERS = ("administrator, all", "administrator, stage", "job, all", "job, stage")


def said_in(*layers: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `podDefaults` and the job's changes, if each of these layers sets a label to its own name."""
    defaults: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    for layer in layers:
        labels = {"labels": {"example.com/said-by": layer.replace(", ", "-")}}
        who, what = layer.split(", ")
        stage = "default" if what == "all" else "convert"
        if who == "administrator":
            defaults[stage] = labels
        else:
            changes[f"spec.pods.{stage}"] = labels
    return defaults, changes


@pytest.mark.parametrize("count", range(1, len(LAYERS) + 1))
def test_order_of_the_layers(count: int) -> None:
    """The job goes over the administrator, and for each of them a stage over all stages."""
    defaults, changes = said_in(*LAYERS[:count])
    options = pod_options(children(changes)[StageName.CONVERT], settings(podDefaults=defaults))
    assert options["labels"] == {"example.com/said-by": LAYERS[count - 1].replace(", ", "-")}


def test_other_stages_are_left_alone() -> None:
    """What is said for one stage is not done for another."""
    defaults, changes = said_in("administrator, stage", "job, stage")
    options = pod_options(children(changes)[StageName.QUANTIZE], settings(podDefaults=defaults))
    assert "labels" not in options


def train_options(changes: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    return pod_options(children(changes)[StageName.TRAIN], settings(**given))


def test_gpus() -> None:
    """As many GPUs as the job says are asked for by the resource's name, in requests and limits; none on the CPU."""
    four = train_options({"spec.training.gpusPerNode": 4})["resources"]
    assert four["requests"]["nvidia.com/gpu"] == four["limits"]["nvidia.com/gpu"] == "4"
    amd = {"train": {"gpuResourceName": "amd.com/gpu"}}
    assert train_options({"spec.training.gpusPerNode": 1}, podDefaults=amd)["resources"]["limits"]["amd.com/gpu"] == "1"
    assert set(train_options({})["resources"]["limits"]) == {"cpu", "memory"}


def test_runtime_class() -> None:
    """The administrator's RuntimeClass for GPUs is not for a training without any; what the job says always is."""
    given = {"train": {"runtimeClassName": "nvidia"}}
    assert train_options({"spec.training.gpusPerNode": 1}, podDefaults=given)["runtimeClassName"] == "nvidia"
    assert "runtimeClassName" not in train_options({}, podDefaults=given)
    asked = train_options({"spec.pods.train.runtimeClassName": "kata"}, podDefaults=given)
    assert asked["runtimeClassName"] == "kata"


@pytest.mark.parametrize(
    ("train", "size"),
    [
        ({}, 8 * 2**30),
        ({"resources": {"limits": {"memory": "4Gi"}}}, 2 * 2**30),
        ({"sharedMemory": "24Gi", "resources": {"limits": {"memory": "32Gi"}}}, 24 * 2**30),
        ({"sharedMemory": "1Gi"}, 2**30),
    ],
    ids=["default", "default cut to half of the memory", "said", "small"],
)
def test_shared_memory(train: dict[str, Any], size: int) -> None:
    """Shared memory is as large as said; a default never takes more than half of the memory that it counts towards."""
    child = children({"spec.pods.train": train})[StageName.TRAIN]
    pod = child_manifests(child, settings())[-1]["spec"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "shared-memory")
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "shared-memory")
    assert volume["emptyDir"]["medium"] == "Memory"
    assert parse_quantity(volume["emptyDir"]["sizeLimit"]) == size
    assert mount["mountPath"] == "/dev/shm"  # noqa: S108 - a mount, not a file


def test_more_shared_memory_than_memory() -> None:
    """A job that asks for more shared memory than its pods may use is refused before anything is killed for it."""
    with pytest.raises(ManifestError, match="below the memory limit of the pods, 16Gi, got 16Gi") as refused:
        train_options({"spec.pods.train": {"sharedMemory": "16Gi", "resources": {"limits": {"memory": "16Gi"}}}})
    assert refused.value.field == "spec.pods.train.sharedMemory"


@pytest.mark.parametrize(
    ("changes", "threads"),
    [
        ({"spec.pods.train.resources": {"limits": {"cpu": "6500m"}}}, "6"),
        ({"spec.pods.train.resources": {"limits": {"cpu": "8"}}, "spec.training.processesPerNode": 4}, "2"),
        ({"spec.pods.train.resources": {"limits": {"cpu": "500m"}}}, "1"),
        ({"spec.pods.train.env": [{"name": "OMP_NUM_THREADS", "value": "3"}]}, "3"),
    ],
    ids=["whole CPUs", "shared among processes", "at least one", "said by the job"],
)
def test_threads(changes: dict[str, Any], threads: str) -> None:
    """OpenMP takes the CPUs that the pod may use, not those that the node has, unless the job says otherwise."""
    pod = child_manifests(children(changes)[StageName.TRAIN], settings())[-1]["spec"]["template"]["spec"]
    found = [variable["value"] for variable in pod["containers"][0]["env"] if variable["name"] == "OMP_NUM_THREADS"]
    assert found == [threads]


def test_what_a_program_needs_cannot_be_changed() -> None:
    """The administrator's variables are passed on, but not in place of those that the programs rely on."""
    env = [{"name": "HOME", "value": "/root"}, {"name": "TZ", "value": "UTC"}, {"name": "HF_HUB_OFFLINE", "value": "0"}]
    child = children()[StageName.PREPARE]
    given = settings(podDefaults={"default": {"env": env}})
    pod = child_manifests(child, given)[-1]["spec"]["template"]["spec"]
    values = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert (values["HOME"], values["TZ"], values["HF_HUB_OFFLINE"]) == ("/scratch", "UTC", "1")


def test_pull_secrets() -> None:
    """Credentials for the registry come from the settings and from the job."""
    changes = {"spec.pods.default.imagePullSecrets": [{"name": "mine"}]}
    options = pod_options(children(changes)[StageName.FETCH], settings(imagePullSecrets=["mirror"]))
    assert options["imagePullSecrets"] == [{"name": "mirror"}, {"name": "mine"}]
