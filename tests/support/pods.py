"""What the tests ask of every pod, and children of jobs on paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from support.builders import job
from tunesmith.api.settings import Settings
from tunesmith.core.manifests import Child
from tunesmith.core.manifests.paper import children_on_paper
from tunesmith.core.manifests.quantity import parse_quantity
from tunesmith_stages.contract import StageName

_SETTINGS: Mapping[str, Any] = {
    "stageImage": "stages:1",
    "servers": [{"name": "main", "url": "http://ollama:11434"}],
}
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def settings(**changes: Any) -> Settings:
    """Return small settings; a change is a field of the settings file."""
    return Settings.model_validate({**_SETTINGS, **changes})


def children(changes: Mapping[str, Any] | None = None) -> dict[StageName, Child]:
    """Return the first try at every stage of a small job in the namespace team-a."""
    return {child.stage.name: child for child in children_on_paper(job(changes), "team-a", "stages:1")}


def pods_in(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the spec of every pod that these objects make."""
    for manifest in manifests:
        if manifest["kind"] == "Job":
            yield manifest["spec"]["template"]["spec"]
        elif manifest["kind"] == "Pod":
            yield manifest["spec"]


def require_restricted(pod: Mapping[str, Any]) -> None:
    """Check a pod against the Pod Security standard "restricted", rule by rule.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & pod.keys()
    assert all(_VOLUMES & volume.keys() for volume in pod["volumes"])
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security.get("runAsUser") != 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"sysctls", "seLinuxOptions", "appArmorProfile", "fsGroup"} & security.keys()
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert not [port for port in container.get("ports", ()) if "hostPort" in port]


def require_bounds(pod: Mapping[str, Any]) -> None:
    """Check that every container asks for CPU and memory, has limits for all that it asks for, and never less."""
    for container in pod["containers"]:
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory"} <= requests.keys() == limits.keys()
        assert all(0 < parse_quantity(requests[name]) <= parse_quantity(limits[name]) for name in requests)
    for volume in pod["volumes"]:
        assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]
