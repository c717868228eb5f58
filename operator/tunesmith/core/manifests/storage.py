"""The volume as pods use it: which claim, as which user, and mounted where."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.pods import Storage
from tunesmith.api.settings import Settings
from tunesmith.core.manifests.places import VOLUME

Object = dict[str, Any]


def effective_storage(job: FineTuneJob, namespace: str, settings: Settings) -> Storage:
    """Return the volume of a job: as the administrator says, then as the job says.

    A folder that the administrator gives to the namespace is not left: the job's own `subPath` lies below it.
    """
    return _merged(settings.storage.default, settings.storage.namespaces.get(namespace), job.spec.storage, namespace)


@lru_cache(maxsize=256)
def _merged(default: Storage, of_namespace: Storage | None, own_storage: Storage | None, namespace: str) -> Storage:
    said = {**_given(default), **_given(of_namespace)}
    own = _given(own_storage)
    if own.get("claimName", said["claimName"]) == said["claimName"]:
        folders = [str(said.get("subPath", "")).replace("{namespace}", namespace), str(own.get("subPath", ""))]
        own["subPath"] = "/".join(filter(None, folders))
    else:
        said.pop("subPath", None)
    return Storage.model_validate({name: value for name, value in {**said, **own}.items() if value != ""})


def _given(storage: Storage | None) -> Object:
    """Return what is said of the volume itself, and nothing of what stays on it."""
    fields = set(Storage.model_fields)
    given = storage.model_dump(mode="json", by_alias=True, exclude_none=True, include=fields) if storage else {}
    return {name: value for name, value in given.items() if value != []}


def pod_security(storage: Storage) -> Object:
    """Return the security context of a pod that uses a volume.

    There is never an `fsGroup`: on some volumes it would change the owner of every file that lies there.
    """
    ids = {"runAsUser": storage.run_as_user, "runAsGroup": storage.run_as_group}
    groups = {"supplementalGroups": list(storage.supplemental_groups)} if storage.supplemental_groups else {}
    return {
        "runAsNonRoot": True,
        **{name: number for name, number in ids.items() if number is not None},
        **groups,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def claim_volume(storage: Storage, *, read_only: bool = False) -> Object:
    """Return the pod's volume for the claim that everything is kept on."""
    claim = {"claimName": storage.claim_name, **({"readOnly": True} if read_only else {})}
    return {"name": "volume", "persistentVolumeClaim": claim}


def claim_mount(storage: Storage, *, read_only: bool = False) -> Object:
    """Return the mount of that volume: all of it, or the folder that the storage names."""
    return {
        "name": "volume",
        "mountPath": VOLUME,
        **({"subPath": storage.sub_path} if storage.sub_path else {}),
        **({"readOnly": True} if read_only else {}),
    }
