"""The input of a stage program as a ConfigMap: stage.json, and the certificates that it is to trust."""

from __future__ import annotations

from typing import Any

from tunesmith.api.settings import Server, Settings
from tunesmith.core.manifests.child import Child, child_metadata
from tunesmith.core.manifests.layers import ManifestError
from tunesmith.core.manifests.places import CA_FILE, STAGE_FILE, VOLUME
from tunesmith.core.manifests.quantity import parse_quantity
from tunesmith.core.manifests.sources import source_runtime
from tunesmith.core.manifests.tracking import tracker_runtime, tracker_url
from tunesmith_stages.contract import StageConfig, StageName

MAX_CONFIG_BYTES = 1_000_000
"""A ConfigMap holds 1 MiB; some of it is for its own metadata
(https://kubernetes.io/docs/concepts/configuration/configmap/)."""


def config_map(child: Child, settings: Settings, *, grace: int) -> dict[str, Any]:
    """Return the ConfigMap of a child; it can never be changed.

    Args:
        child: the try at a stage.
        settings: the administrator's.
        grace: seconds between SIGTERM and SIGKILL.

    Raises:
        ManifestError: the job's texts are too large for one, or it names what the administrator has not set up.
    """
    tracker_url(child, settings)  # what cannot be tracked is refused before anything is fetched for it
    data = {STAGE_FILE: stage_config(child, settings, grace=grace).to_json()}
    if settings.network.ca_bundle:
        data[CA_FILE] = settings.network.ca_bundle
    size = sum(len(text.encode()) for text in data.values())
    if size > MAX_CONFIG_BYTES:
        raise ManifestError(
            "spec",
            f"must fit into a ConfigMap: with it the input of `{child.stage.name}` has {size} bytes, "
            f"{MAX_CONFIG_BYTES} are allowed",
            hint="Shorten the long texts: `ollama.license`, `ollama.system`, `ollama.smokeTests`, `substitutions`; "
            "put `inline` rows on the volume.",
            reason="InputTooLarge",
        )
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": child_metadata(child), "immutable": True, "data": data}


def stage_config(child: Child, settings: Settings, *, grace: int) -> StageConfig:
    """Return a child's stage.json. The attempt's name is given to the program on its command line."""
    return StageConfig(
        stage=child.stage.name,
        job=child.job.metadata.name,
        volume=VOLUME,
        attempt="",
        units=child.units,
        runtime={**child.stage.runtime, **_runtime(child, settings, grace)},
        later=child.later,
        known=child.known,
    )


def _runtime(child: Child, settings: Settings, grace: int) -> dict[str, Any]:
    """Return what only the operator knows of how a stage runs."""
    match child.stage.name:
        case StageName.FETCH:
            return {"resolve": True, **source_runtime(child)}
        case StageName.TRAIN:
            return {"graceSeconds": grace, **tracker_runtime(child, settings)}
        case StageName.REHEARSE:
            memory = settings.gpu_memory
            estimate = {
                **child.stage.runtime["estimate"],
                "gpuMemoryBytes": int(parse_quantity(memory)) if memory else None,
            }
            return {"servers": servers(child, settings), "estimate": estimate}
        case StageName.REGISTER if child.removes:
            return {"servers": _servers_of_record(child, settings)}
        case StageName.REGISTER:
            return {"servers": servers(child, settings)}
    return {}


def _servers_of_record(child: Child, settings: Settings) -> dict[str, Any]:
    """Return, by name, the servers from which models are to be removed, as far as they are there still."""
    wanted = child.stage.runtime["names"]
    return {server.name: _server(server, child) for server in settings.servers if server.name in wanted}


def servers(child: Child, settings: Settings) -> dict[str, Any]:
    """Return, by name, the Ollama servers of a job and how they are reached.

    Raises:
        ManifestError: the administrator has not defined one of them.
    """
    known = {server.name: server for server in settings.servers}
    for index, name in enumerate(child.job.spec.ollama.servers):
        if name not in known:
            raise ManifestError(
                f"spec.ollama.servers[{index}]",
                f"must be a server that the administrator defined: {', '.join(known) or 'none'}; got {name!r}",
                hint="Name one of those, or ask the administrator.",
                reason="UnknownServer",
            )
    return {name: _server(known[name], child) for name in child.job.spec.ollama.servers}


def _server(server: Server, child: Child) -> dict[str, Any]:
    """Return how a server is reached. Its pod mounts what the job sees as its volume, or a folder above that."""
    plain: dict[str, Any] = server.model_dump(mode="json", by_alias=True, include={"url", "ca_bundle", "exec"})
    plain["caBundle"] = plain["caBundle"] or ""
    if plain["exec"]:
        mount = plain["exec"]["volumeMountPath"].replace("{namespace}", child.namespace)
        below = child.job.spec.storage.sub_path
        plain["exec"]["volumeMountPath"] = f"{mount.rstrip('/')}/{below}" if below else mount
    return plain
