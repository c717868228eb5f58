"""The pods that stage programs run in: what they may do, what they see, and what they need.

Every pod meets Kubernetes' Pod Security standard "restricted"
(https://kubernetes.io/docs/concepts/security/pod-security-standards/), has a read-only root file system, and requests
and limits. It has no credentials of the cluster, unless it is to run `ollama create` in Ollama's pod.
"""

from __future__ import annotations

from typing import Any

from tunesmith.api.finetunejob import RegisterMethod
from tunesmith.api.pods import Storage
from tunesmith.api.settings import Settings
from tunesmith.core.manifests.child import STAGE_CONTAINER, Child, child_annotations, child_labels, child_name
from tunesmith.core.manifests.environment import ATTEMPT, environment
from tunesmith.core.manifests.layers import ManifestError
from tunesmith.core.manifests.places import CONFIG, SCRATCH, SHARED_MEMORY, STAGE_FILE, TERMINATION_LOG
from tunesmith.core.manifests.sources import config_map_mounts, config_map_volumes
from tunesmith.core.manifests.storage import claim_mount, claim_volume, pod_security
from tunesmith.core.manifests.training import spread_over_nodes
from tunesmith_stages.contract import StageName

Object = dict[str, Any]

CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
_SCRATCH_SIZE = "10Gi"
"""Compiled kernels, caches, temporary files. It is on the node's disk; whoever exceeds it is evicted."""
_REACHES_OLLAMA = frozenset({StageName.REHEARSE, StageName.REGISTER})
_IF_GIVEN = (
    "imagePullSecrets",
    "nodeSelector",
    "tolerations",
    "priorityClassName",
    "schedulerName",
    "runtimeClassName",
)


def pod_template(child: Child, storage: Storage, settings: Settings, options: Object) -> Object:
    """Return the pod template of a child's Job; `options` are those of :func:`..options.pod_options`."""
    return {
        "metadata": {
            "labels": {**options.get("labels", {}), **child_labels(child)},
            "annotations": {**options.get("annotations", {}), **child_annotations(child)},
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": options["terminationGracePeriodSeconds"],
            **_deadline(child),
            "enableServiceLinks": False,
            **_identity(child, settings),
            **_together(child),
            **{name: options[name] for name in _IF_GIVEN if name in options},
            "securityContext": pod_security(storage),
            "containers": [_container(child, storage, settings, options)],
            "volumes": [
                claim_volume(storage),
                {"name": "config", "configMap": {"name": child_name(child)}},
                {"name": "scratch", "emptyDir": {"sizeLimit": _SCRATCH_SIZE}},
                *_shared_memory(options),
                *config_map_volumes(child),
            ],
        },
    }


def _container(child: Child, storage: Storage, settings: Settings, options: Object) -> Object:
    shared = [{"name": "shared-memory", "mountPath": SHARED_MEMORY}] if "sharedMemory" in options else []
    return {
        "name": STAGE_CONTAINER,
        "image": child.image,
        "imagePullPolicy": str(settings.image_pull_policy),
        "command": ["python", "-m", f"tunesmith_stages.{_program(child)}"],
        "args": _arguments(child),
        "env": environment(child, settings, options),
        "resources": options["resources"],
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            claim_mount(storage),
            {"name": "config", "mountPath": CONFIG, "readOnly": True},
            {"name": "scratch", "mountPath": SCRATCH},
            *shared,
            *config_map_mounts(child),
        ],
    }


def _program(child: Child) -> str:
    if child.removes:
        return "unregister"
    return "lookup" if child.lookup else str(child.stage.name)


def _arguments(child: Child) -> list[str]:
    arguments = ["--config", f"{CONFIG}/{STAGE_FILE}", "--report", TERMINATION_LOG]
    # Kubernetes puts the variable's value in. Who only looks up or removes makes no attempt.
    return arguments if child.lookup or child.removes else [*arguments, "--attempt", f"$({ATTEMPT})", "--log"]


def _identity(child: Child, settings: Settings) -> Object:
    """Return who the pod is to the API server: nobody, but for those that run a command in Ollama's pod."""
    by_exec = child.job.spec.ollama.method is RegisterMethod.EXEC
    makes_none = child.lookup or child.removes  # a model is removed by HTTP, as those that were only tried are
    if not by_exec or makes_none or child.stage.name not in _REACHES_OLLAMA:
        return {"automountServiceAccountToken": False}
    if settings.exec_service_account is None:
        raise ManifestError(
            "spec.ollama.method",
            "must be API: the administrator has not set up a ServiceAccount for Exec",
            hint="Use API, or ask the administrator for `execServiceAccount`.",
            reason="ExecNotAllowed",
        )
    return {"serviceAccountName": settings.exec_service_account, "automountServiceAccountToken": True}


def _deadline(child: Child) -> Object:
    """Return the end of a training's time. A pod's begins on its node; a Job's would begin before it is scheduled."""
    return {"activeDeadlineSeconds": child.deadline} if child.trains and child.deadline is not None else {}


def _together(child: Child) -> Object:
    """Return what lets pods that train together find each other by host name, and spreads them over machines."""
    return {"subdomain": child_name(child), "affinity": spread_over_nodes(child)} if child.nodes > 1 else {}


def _shared_memory(options: Object) -> list[Object]:
    if "sharedMemory" not in options:
        return []
    return [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": options["sharedMemory"]}}]
