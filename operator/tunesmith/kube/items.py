"""Objects as the cache keeps them: without what no decision needs, and with what was found out about them once."""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern
from typing import Any, NamedTuple

from tunesmith.api import keys
from tunesmith.api.status import UNSEEN_GENERATION
from tunesmith.core.manifests.places import VOLUME
from tunesmith.kube.cluster import FINETUNEJOBS, JOBS, Object, Resource, to_version

Item = Mapping[str, Any]


class Key(NamedTuple):
    """A namespace and a name."""

    namespace: str
    name: str


class Owner(NamedTuple):
    """What controls an object: something of the same namespace, by its uid."""

    namespace: str
    uid: str


class News(NamedTuple):
    """What was read of an object: all that the cache needs of it."""

    key: Key
    uid: str
    version: int
    kept: Object | None
    """As the cache keeps it; None if that has no use for it."""
    told: Key | None
    """The FineTuneJob that is to be looked at for it."""


def key_of(item: Item) -> Key:
    """Return the key of an object."""
    return Key(item["metadata"]["namespace"], item["metadata"]["name"])


def whole(item: Item) -> Object:
    """Return a FineTuneJob of the cache as the API server takes it: with its kind."""
    return {"apiVersion": FINETUNEJOBS.api_version, "kind": FINETUNEJOBS.kind, **item}


def about(item: Item) -> dict[str, str]:
    """Return which FineTuneJob a line of the log is about."""
    return about_key(Key(item["metadata"]["namespace"], item["metadata"]["name"]))


def about_key(key: Key) -> dict[str, str]:
    """Return the same of one of which only the name is at hand."""
    return {"namespace": key.namespace, "finetunejob": key.name}


def version_of(item: Item) -> int:
    """Return an object's resource version as a number."""
    return to_version(item["metadata"].get("resourceVersion"))


def ready_reason(finetunejob: Item) -> str:
    """Return the reason of a FineTuneJob's condition Ready, which is the word for how it stands."""
    conditions = (finetunejob.get("status") or {}).get("conditions") or ()
    return next((str(item.get("reason", "")) for item in conditions if item.get("type") == "Ready"), "")


_KEPT_META = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
    "labels",
    "annotations",
    "ownerReferences",
)
_COPY_OF_IT_ALL = "kubectl.kubernetes.io/last-applied-configuration"


def slim(item: Item) -> Object:
    """Return a FineTuneJob without managed fields, and without the copy of itself that `kubectl apply` leaves in it.

    A status that is the API server's and not the operator's is none.
    """
    status = item.get("status") or {}
    unseen = status.get("observedGeneration") == UNSEEN_GENERATION
    return {"metadata": _meta(item), "spec": item.get("spec") or {}, "status": {} if unseen else status}


def slim_child(item: Item, owner: Owner, *, pod: bool) -> Object:
    """Return a Job or Pod with its `owner`, and of its spec whether it is suspended, size, volume and Pods' time.

    Of a Job's status only its end is kept: how many of its Pods run, and how, the Pods tell themselves.

    `watched`: it has the label by which the watches and lists of the operator have their objects.
    """
    spec, status = item.get("spec") or {}, item.get("status") or {}
    template = spec if pod else (spec.get("template") or {}).get("spec") or {}
    return {
        "metadata": _meta(item) if pod else _with_labels_of_pods(_meta(item), spec.get("template") or {}),
        "spec": {
            "suspend": spec.get("suspend", False),
            "completions": spec.get("completions") or 1,
            "parallelism": spec.get("parallelism", 1),
        },
        "status": status if pod else {name: status[name] for name in _END_OF_JOB if name in status},
        "owner": owner,
        "pod": pod,
        "watched": bool(label(item, keys.UID_LABEL)),
        "volume": _volume_of(template),
        "deadline": template.get("activeDeadlineSeconds"),
    }


_END_OF_JOB = ("conditions", "completionTime")


def _meta(item: Item) -> Object:
    meta = {name: item["metadata"][name] for name in _KEPT_META if name in item["metadata"]}
    notes = meta.get("annotations") or {}
    if _COPY_OF_IT_ALL in notes:
        meta["annotations"] = {name: text for name, text in notes.items() if name != _COPY_OF_IT_ALL}
    return meta


_LONGEST_SHARED = 40
"""Characters of a text that may stand in several places: a uid has 36."""


def lean(value: Any) -> Any:
    """Return a copy of some JSON that shares with all others the names of its fields, and its short texts.

    As they were parsed, thousands of objects would each have their own.
    """
    if isinstance(value, dict):
        return {intern(name): lean(item) for name, item in value.items()}
    if isinstance(value, list):
        return [lean(item) for item in value]
    return intern(value) if isinstance(value, str) and len(value) <= _LONGEST_SHARED else value


def _with_labels_of_pods(meta: Object, template: Item) -> Object:
    """Return a Job's metadata with what we wrote there: anybody may edit that, but nobody its template for Pods."""
    ours: Item = template.get("metadata") or {}
    return {
        **meta,
        **{part: {**(meta.get(part) or {}), **(ours.get(part) or {})} for part in ("labels", "annotations")},
    }


def _volume_of(pod_spec: Item) -> tuple[str, str]:
    """Return the claim that a Pod's programs work on, and which folder of it; nothing if there is none."""
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod_spec.get("volumes") or ()
        if "persistentVolumeClaim" in volume
    }
    for container in pod_spec.get("containers") or ():
        for mount in container.get("volumeMounts") or ():
            if mount["mountPath"] == VOLUME and mount["name"] in claims:
                return str(claims[mount["name"]]), str(mount.get("subPath", "")).strip("/")
    return "", ""


def finetunejob_of(job: Item) -> tuple[Owner, Key] | None:
    """Return the FineTuneJob that controls a Job; None if it is somebody else's. Labels prove nothing."""
    ref = _controller(job, FINETUNEJOBS)
    namespace = job["metadata"]["namespace"]
    return (Owner(namespace, ref["uid"]), Key(namespace, ref["name"])) if ref else None


def job_of(pod: Item) -> Owner | None:
    """Return the Job that controls a Pod."""
    ref = _controller(pod, JOBS)
    return Owner(pod["metadata"]["namespace"], ref["uid"]) if ref else None


def _controller(item: Item, resource: Resource) -> Item | None:
    group = resource.api_version.partition("/")[0]
    for ref in item["metadata"].get("ownerReferences") or ():
        ours = ref.get("kind") == resource.kind and str(ref.get("apiVersion", "")).startswith(f"{group}/")
        if ours and ref.get("controller"):
            return dict(ref)
    return None


def label(item: Item, name: str) -> str:
    """Return the value of a label; empty if it is not there."""
    return str((item["metadata"].get("labels") or {}).get(name, ""))


def named_by_label(pod: Item) -> Key | None:
    """Return the FineTuneJob that a Pod says that it is for; good enough to look at that again."""
    name = label(pod, keys.JOB_LABEL)
    return Key(pod["metadata"]["namespace"], name) if name else None
