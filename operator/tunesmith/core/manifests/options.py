"""What the pods of a stage are like: built in, then as the administrator says, then as the FineTuneJob says.

For each of the latter two, what is said for a stage goes over what is said for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from tunesmith.api.settings import BUILT_IN_PODS, Settings
from tunesmith.core.manifests.child import Child
from tunesmith.core.manifests.layers import Layer, ManifestError, merge
from tunesmith.core.manifests.quantity import parse_quantity
from tunesmith_stages.contract import StageName

_DEFAULT = "default"
_LOOKUP = "lookup"
_GRACE_SECONDS = 60


def pod_options(child: Child, settings: Settings) -> dict[str, Any]:
    """Return what a child's pods are like, in the spelling of the API's `pods` and of Kubernetes.

    Raises:
        ManifestError: the job asks for more of a resource than it allows, or for more shared memory than memory.
    """
    options = merge(_layers(child, settings))
    if child.trains:
        _ask_for_gpus(options, child.job.spec.training.gpus_per_node)
        _fit_shared_memory(options, child)
    return options


def _layers(child: Child, settings: Settings) -> Iterator[Layer]:
    """Yield what is said of a child's pods, from the weakest to the strongest."""
    job, stage = child.job.spec, _LOOKUP if child.lookup else str(child.stage.name)
    built_in, administrators, jobs = (_said(of, stage) for of in (BUILT_IN_PODS, settings.pod_defaults, job.pods))
    yield Layer("built in", {"terminationGracePeriodSeconds": _GRACE_SECONDS})
    yield Layer("built in", built_in[_DEFAULT])
    yield Layer("built in", built_in[stage])
    if child.grace is not None and child.trains:
        yield Layer("measured", {"terminationGracePeriodSeconds": child.grace})
    yield Layer("imagePullSecrets", {"imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets]})
    yield Layer("podDefaults.default", administrators[_DEFAULT])
    yield Layer(f"podDefaults.{stage}", _without_gpu_runtime(child, administrators[stage]))
    yield Layer("spec.pods.default", jobs[_DEFAULT])
    yield Layer(f"spec.pods.{stage}", jobs[stage])
    if job.scheduling.priority_class_name:
        yield Layer("spec.scheduling", {"priorityClassName": job.scheduling.priority_class_name})


def _said(pods: BaseModel, stage: str) -> dict[str, dict[str, Any]]:
    """Return the fields that were given for all stages and for this one, in the API's spelling.

    An empty one says nothing.
    """
    fields = {_DEFAULT, f"{stage}_" if stage == StageName.REGISTER else stage}
    stages = pods.model_dump(mode="json", by_alias=True, exclude_none=True, include=fields)
    return {
        name: {field: value for field, value in stages.get(name, {}).items() if value not in ("", [], {})}
        for name in (_DEFAULT, stage)
    }


def _without_gpu_runtime(child: Child, given: dict[str, Any]) -> dict[str, Any]:
    """Leave out the RuntimeClass that is meant for GPUs where none is used: a node without them may not have it."""
    if child.trains and child.job.spec.training.gpus_per_node == 0:
        return {name: value for name, value in given.items() if name != "runtimeClassName"}
    return given


def _ask_for_gpus(options: dict[str, Any], count: int) -> None:
    """Ask for GPUs; Kubernetes wants as many in the requests as in the limits."""
    if count:
        for amounts in options["resources"].values():
            amounts[options["gpuResourceName"]] = str(count)


def _fit_shared_memory(options: dict[str, Any], child: Child) -> None:
    """Keep /dev/shm below the memory limit, which what lies in it counts towards.

    What the job itself asks for is never changed. A default is cut to half of the memory.

    Raises:
        ManifestError: the job asks for more than its memory.
    """
    limit = parse_quantity(options["resources"]["limits"]["memory"])
    if parse_quantity(options["sharedMemory"]) <= limit / 2:
        return
    asked = child.job.spec.pods.train.shared_memory
    if asked is None:
        options["sharedMemory"] = str(int(limit / 2))
    elif parse_quantity(asked) >= limit:
        raise ManifestError(
            "spec.pods.train.sharedMemory",
            f"must be below the memory limit of the pods, {options['resources']['limits']['memory']}, got {asked}: "
            "what lies in shared memory counts as memory",
            hint="Raise `spec.pods.train.resources.limits.memory`, or lower the shared memory.",
        )
