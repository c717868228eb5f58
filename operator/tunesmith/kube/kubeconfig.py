"""The cluster that somebody works with, by their kubeconfig, chosen as kubectl chooses it.

https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from tunesmith.kube.client import KubeCluster

_REFRESH_SECONDS = 60.0


class KubeconfigError(Exception):
    """No cluster can be chosen: a sentence that says why."""


@dataclass(frozen=True)
class Context:
    """One way to a cluster that a kubeconfig knows."""

    name: str
    namespace: str
    files: str
    """Paths of the kubeconfig's files, separated as KUBECONFIG separates them."""


def find_context(given: Path | None, name: str | None, environ: Mapping[str, str]) -> Context:
    """Return the context that is meant.

    Args:
        given: the kubeconfig that the user names. None: the files of KUBECONFIG, or ``~/.kube/config``.
        name: the context that the user names. None: the current one.
        environ: environment variables.

    Raises:
        KubeconfigError: there is no such file or context.
    """
    if given is not None and not given.is_file():
        raise KubeconfigError(f"the kubeconfig {given} is not there")
    listed = str(given) if given else environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    files = [path for part in listed.split(os.pathsep) if part and (path := Path(part).expanduser()).is_file()]
    if not files:
        raise KubeconfigError(f"there is no kubeconfig: {listed} is not there")
    read = [_read(path) for path in files]
    contexts = {item["name"]: item for content in reversed(read) for item in _contexts(content)}
    current = name or next((found for content in read if (found := content.get("current-context"))), "")
    if not current:
        raise KubeconfigError(f"the kubeconfig {listed} has no current context; it knows: {_named(contexts)}")
    if current not in contexts:
        raise KubeconfigError(f"the kubeconfig {listed} has no context {current!r}; it knows: {_named(contexts)}")
    namespace = (contexts[current].get("context") or {}).get("namespace") or "default"
    return Context(str(current), str(namespace), os.pathsep.join(map(str, files)))


@asynccontextmanager
async def connect_to(context: Context) -> AsyncIterator[KubeCluster]:
    """Connect to the cluster of a context, with its user's credentials; they are renewed as long as this lasts.

    Raises:
        KubeconfigError: the kubeconfig lacks something, or a file that it names cannot be read.
    """
    configuration = Configuration()
    try:
        loader = await config.load_kube_config(  # type: ignore[no-untyped-call]
            context.files, context.name, client_configuration=configuration, persist_config=False
        )
        client = ApiClient(configuration)
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise KubeconfigError(f"the context {context.name!r} of the kubeconfig cannot be used: {error}") from error
    loaded = time.monotonic()

    async def renew(_: Configuration) -> None:
        nonlocal loaded
        if time.monotonic() - loaded > _REFRESH_SECONDS:
            with suppress(config.ConfigException, OSError, ValueError):  # the server says whether the old ones will do
                await loader.load_and_set(configuration)
            loaded = time.monotonic()

    configuration.refresh_api_key_hook = renew  # type: ignore[assignment]
    async with client:
        yield KubeCluster(client)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KubeconfigError(f"the kubeconfig {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise KubeconfigError(f"the kubeconfig {path} holds no configuration")
    return content


def _contexts(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    items = content.get("contexts") or []
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)]


def _named(contexts: Mapping[str, Any]) -> str:
    return ", ".join(sorted(contexts)) or "none"
