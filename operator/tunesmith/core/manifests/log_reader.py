"""A pod that reads the logs of a FineTuneJob, or the report on it, from the volume, for `kubectl tunesmith`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.api import keys
from tunesmith.api.pods import Storage
from tunesmith.api.settings import BUILT_IN_PODS
from tunesmith.core.manifests.child import STAGE_CONTAINER, common_labels
from tunesmith.core.manifests.environment import places
from tunesmith.core.manifests.places import SCRATCH, VOLUME
from tunesmith.core.manifests.pod import CONTAINER_SECURITY
from tunesmith.core.manifests.storage import claim_mount, claim_volume, pod_security

LOGS = "logs"
LOGS_PROGRAM = "tunesmith_stages.logs"
REPORT_PROGRAM = "tunesmith_stages.report"
_JOB_CHARACTERS = 30
_MAX_SECONDS = 600
"""Whoever asked may be gone."""


def log_reader_pod(
    job: Mapping[str, Any],
    suffix: str,
    *,
    image: str,
    storage: Storage,
    pull_secrets: Sequence[str] = (),
    program: str = LOGS_PROGRAM,
    arguments: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a pod that prints logs of a job, or the report on it, and ends; it can change nothing on the volume.

    Args:
        job: the FineTuneJob as the API server has it. It need not be valid: its logs are there all the same.
        suffix: ends the pod's name; who creates the pod knows the name even if the server's answer is lost.
        image: the stages' image.
        storage: the volume that the job uses, and as whom.
        pull_secrets: Secrets with the registry's credentials, besides those that the job names.
        program: the module that prints, which is told the volume and the job's name.
        arguments: more that it is told, such as stage and attempt.
    """
    meta = job["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{meta['name'][:_JOB_CHARACTERS].rstrip('-.')}-{LOGS}-{suffix}",
            "namespace": meta["namespace"],
            "labels": {**common_labels(LOGS), keys.JOB_LABEL: meta["name"]},
            "ownerReferences": _goes_with(meta),
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _MAX_SECONDS,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            **_placement(job, pull_secrets),
            "securityContext": pod_security(storage),
            "containers": [
                {
                    "name": STAGE_CONTAINER,
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-m", program],
                    "args": ["--volume", VOLUME, "--job", meta["name"], *arguments],
                    "env": [{"name": name, "value": value} for name, value in places().items()],
                    "resources": BUILT_IN_PODS.lookup.resources.model_dump(mode="json"),
                    "securityContext": CONTAINER_SECURITY,
                    "volumeMounts": [
                        claim_mount(storage, read_only=True),
                        {"name": "scratch", "mountPath": SCRATCH},
                    ],
                }
            ],
            "volumes": [claim_volume(storage), {"name": "scratch", "emptyDir": {"sizeLimit": "100Mi"}}],
        },
    }


def _placement(job: Mapping[str, Any], pull_secrets: Sequence[str]) -> dict[str, Any]:
    """Return where the pod may run and how its image is pulled, as the job says for all of its pods."""
    said = (job["spec"].get("pods") or {}).get("default") or {}
    secrets = dict.fromkeys([*pull_secrets, *(item["name"] for item in said.get("imagePullSecrets") or ())])
    placement = {name: said.get(name) for name in ("nodeSelector", "tolerations")}
    placement["imagePullSecrets"] = [{"name": name} for name in secrets]
    return {name: value for name, value in placement.items() if value}


def _goes_with(meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the owner reference. People create this pod: only who may set the owner's finalizers may block it."""
    owner = {"apiVersion": f"{keys.GROUP}/{keys.VERSION}", "kind": keys.KIND, "name": meta["name"], "uid": meta["uid"]}
    return [owner]
