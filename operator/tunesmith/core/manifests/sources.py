"""What the pod of `fetch` is given beside stage.json: tokens of hubs, and datasets in ConfigMaps.

The operator reads neither. It names Secrets and ConfigMaps of the job's own namespace, and the kubelet brings them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tunesmith.api.sources import ConfigMapSource, HuggingFaceModel, ModelScopeModel, TokenSecret
from tunesmith.core.manifests.child import Child
from tunesmith.core.manifests.places import DATASETS
from tunesmith_stages.contract import StageName

Object = dict[str, Any]


def source_runtime(child: Child) -> Object:
    """Return where `fetch` finds tokens (variables of the environment) and ConfigMaps (files), by unit."""
    tokens = {unit: name for unit, name, _ in _tokens(child)}
    files = {unit: f"{_folder(unit)}/{source.key}" for unit, source in _config_maps(child)}
    return {"tokens": tokens, "configMaps": files}


def token_variables(child: Child) -> list[Object]:
    """Return the variables with the tokens. A pod whose Secret is not there waits for it."""
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
        for _, name, secret in _tokens(child)
    ]


def config_map_volumes(child: Child) -> list[Object]:
    """Return the volumes with datasets in ConfigMaps."""
    return [
        {
            "name": _volume(unit),
            "configMap": {"name": source.name, "items": [{"key": source.key, "path": source.key}]},
        }
        for unit, source in _config_maps(child)
    ]


def config_map_mounts(child: Child) -> list[Object]:
    """Return where the container has them."""
    return [{"name": _volume(unit), "mountPath": _folder(unit), "readOnly": True} for unit, _ in _config_maps(child)]


def _tokens(child: Child) -> Iterator[tuple[str, str, TokenSecret]]:
    """Yield unit, name of the variable and Secret of every source that is fetched now with a token.

    Who only looks up asks no hub. What a pod does not need could hold it up: a Secret may be gone by then.
    """
    hubs: dict[str, HuggingFaceModel | ModelScopeModel | None] = {}
    if child.stage.name is StageName.FETCH and not child.lookup:
        model = child.job.spec.model
        hubs["base"] = model.hugging_face or model.model_scope
        for dataset in child.job.spec.datasets:
            hubs[f"dataset:{dataset.name}"] = dataset.hugging_face or dataset.model_scope
    fetched = {unit.name for unit in child.units}
    for number, (unit, hub) in enumerate(hubs.items()):
        if unit in fetched and hub is not None and hub.token_secret_ref is not None:
            yield unit, f"TUNESMITH_HUB_TOKEN_{number}", hub.token_secret_ref


def _config_maps(child: Child) -> Iterator[tuple[str, ConfigMapSource]]:
    """Yield unit and source of every ConfigMap that is fetched, or looked at, now."""
    fetched = {unit.name for unit in child.units}
    if child.stage.name is StageName.FETCH:
        for dataset in child.job.spec.datasets:
            if dataset.config_map is not None and f"dataset:{dataset.name}" in fetched:
                yield f"dataset:{dataset.name}", dataset.config_map


def _volume(unit: str) -> str:
    return unit.replace(":", "-")  # at most 60 characters; Kubernetes allows 63


def _folder(unit: str) -> str:
    return f"{DATASETS}/{unit.partition(':')[2]}"
