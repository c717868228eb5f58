"""A pod that reads the logs of a FineTuneJob from the volume, for `kubectl tunesmith logs` when the pods are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.api import keys
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.pods import Storage
from tunesmith.api.settings import BUILT_IN_PODS
from tunesmith.core.manifests.child import common_labels, owned_by
from tunesmith.core.manifests.environment import places
from tunesmith.core.manifests.places import SCRATCH, VOLUME
from tunesmith.core.manifests.pod import CONTAINER_SECURITY
from tunesmith.core.manifests.storage import claim_mount, claim_volume, pod_security

LOGS = "logs"
_MAX_SECONDS = 600
"""Whoever asked may be gone."""


def log_reader_pod(
    job: FineTuneJob,
    uid: str,
    namespace: str,
    *,
    image: str,
    storage: Storage,
    pull_secrets: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a pod that prints logs of a job and ends; it can change nothing on the volume.

    Args:
        job: the FineTuneJob.
        uid: its uid.
        namespace: where it is.
        image: the stages' image.
        storage: the volume that the job uses.
        pull_secrets: Secrets with the registry's credentials, besides those that the job names.
        arguments: of ``tunesmith_stages.logs``, such as stage and attempt.
    """
    overrides = job.spec.pods.default.model_dump(mode="json", by_alias=True, exclude_none=True)
    placement = {name: overrides[name] for name in ("nodeSelector", "tolerations")}
    secrets = dict.fromkeys([*pull_secrets, *(item["name"] for item in overrides["imagePullSecrets"])])
    placement["imagePullSecrets"] = [{"name": name} for name in secrets]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{job.metadata.name[:30].rstrip('-')}-{LOGS}-",
            "namespace": namespace,
            "labels": {**common_labels(LOGS), keys.JOB_LABEL: job.metadata.name},
            "ownerReferences": _goes_with(job, uid),
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _MAX_SECONDS,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            **{name: value for name, value in placement.items() if value},
            "securityContext": pod_security(storage),
            "containers": [
                {
                    "name": LOGS,
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-m", "tunesmith_stages.logs"],
                    "args": ["--volume", VOLUME, "--job", job.metadata.name, *arguments],
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


def _goes_with(job: FineTuneJob, uid: str) -> list[dict[str, Any]]:
    """Return the owner reference. People create this pod: only who may set the owner's finalizers may block it."""
    (owner,) = owned_by(job, uid)
    return [{name: owner[name] for name in ("apiVersion", "kind", "name", "uid")}]
