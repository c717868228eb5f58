"""A hub within the cluster: a pod with :mod:`.rotating_hub`, since pods reach nothing outside of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.cluster import NodeCluster
from support.installed import HUB, IMAGES, RELEASE
from support.jobs import QUICKSTART
from support.rotating_hub import FILE, PORT

_SUPPORT = Path(__file__).parent
_PROGRAM = ("file_server.py", "hub_server.py", "rotating_hub.py")
_PLACE = "/hub"


@dataclass(frozen=True)
class Asked:
    """What the hub was asked for."""

    path: str
    token: str
    first: int
    """Where the part that was asked for begins, in bytes."""
    refused: bool
    """Whether the token was not the one that opens the file."""


@dataclass(frozen=True)
class HubPod:
    """The hub, as it runs."""

    cluster: NodeCluster
    size: int
    """Bytes of its file."""

    def asked(self) -> list[Asked]:
        """Return what it was asked for so far, the first first."""
        lines = self.cluster.kubectl("logs", HUB, "--namespace", RELEASE).splitlines()
        return [Asked(**json.loads(line)) for line in lines]

    def downloads(self) -> list[Asked]:
        """Return when its file was asked for."""
        return [item for item in self.asked() if item.path.endswith(f"/{FILE}")]


@contextmanager
def hub_pod(cluster: NodeCluster) -> Iterator[HubPod]:
    """Run the hub, where the release looks for it, with the quickstart's data, until the block ends."""
    data = (QUICKSTART / "data" / FILE).read_text(encoding="utf-8")
    files = {name: (_SUPPORT / name).read_text(encoding="utf-8") for name in _PROGRAM} | {FILE: data}
    items = [{"key": name, "path": f"support/{name}"} for name in files]
    meta = {"name": HUB, "namespace": RELEASE, "labels": {"app": HUB}}
    container = {
        "name": "hub",
        "image": IMAGES[0],
        "command": ["python", "-m", "support.rotating_hub", f"{_PLACE}/support/{FILE}"],
        "env": [
            {"name": "PYTHONPATH", "value": _PLACE},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "files", "mountPath": _PLACE}],
    }
    pod = {
        "containers": [container],
        "volumes": [{"name": "files", "configMap": {"name": HUB, "items": items}}],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
    }
    service = {"selector": {"app": HUB}, "ports": [{"port": 80, "targetPort": PORT}]}
    objects = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": files},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service},
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod},
    ]
    cluster.kubectl("apply", "--filename=-", objects=objects)
    try:
        cluster.kubectl("wait", "--for=condition=Ready", f"pod/{HUB}", "--namespace", RELEASE, "--timeout=300s")
        yield HubPod(cluster, len(data.encode()))
    finally:
        cluster.kubectl("delete", "pod,service,configmap", HUB, "--namespace", RELEASE)
