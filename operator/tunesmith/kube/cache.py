"""What the operator knows of the cluster: the newest state of each object that it was told of or that it wrote itself.

Only what decisions need is kept. An older state never replaces a newer one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tunesmith.api import keys
from tunesmith.kube.cluster import Object
from tunesmith_stages.model_name import canonical, live_names


class Key(NamedTuple):
    """A namespace and a name."""

    namespace: str
    name: str


def key_of(item: Mapping[str, Any]) -> Key:
    """Return the key of an object."""
    return Key(item["metadata"]["namespace"], item["metadata"]["name"])


_KEPT_META = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "annotations",
    "ownerReferences",
)


def slim(item: Mapping[str, Any], *, whole_spec: bool) -> Object:
    """Return an object without what no decision needs: managed fields, and the spec of Pods and Jobs."""
    meta = {name: item["metadata"][name] for name in _KEPT_META if name in item["metadata"]}
    spec = item.get("spec") or {}
    kept = spec if whole_spec else {"suspend": spec.get("suspend", False)}
    return {"metadata": meta, "spec": kept, "status": item.get("status") or {}}


class Cache:
    """FineTuneJobs with their Jobs and Pods, by owner."""

    def __init__(self) -> None:
        self.finetunejobs: dict[Key, Object] = {}
        self._jobs: dict[str, dict[str, Object]] = defaultdict(dict)  # FineTuneJob's uid -> name -> Job
        self._pods: dict[str, dict[str, Object]] = defaultdict(dict)  # FineTuneJob's uid -> name -> Pod
        self._makers: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)  # namespace, unit -> owner, name
        self._claims: dict[tuple[str, str], set[Key]] = defaultdict(set)  # server, model -> FineTuneJobs

    # --- FineTuneJobs

    def put_finetunejob(self, item: Mapping[str, Any]) -> bool:
        """Remember a FineTuneJob; tell whether it is news."""
        key = key_of(item)
        known = self.finetunejobs.get(key)
        if known is not None and not _is_newer(item, known):
            return False
        self._unclaim(key)
        self.finetunejobs[key] = slim(item, whole_spec=True)
        for claim in claims(item):
            self._claims[claim].add(key)
        return True

    def drop_finetunejob(self, item: Mapping[str, Any]) -> None:
        """Forget a FineTuneJob that is gone, unless another one has taken its name. Its Pods may still be ending."""
        key = key_of(item)
        known = self.finetunejobs.get(key)
        if known is not None and known["metadata"]["uid"] == item["metadata"]["uid"]:
            self._unclaim(key)
            del self.finetunejobs[key]

    def _unclaim(self, key: Key) -> None:
        if key in self.finetunejobs:
            for claim in claims(self.finetunejobs[key]):
                self._claims[claim].discard(key)

    # --- children

    def put_job(self, item: Mapping[str, Any]) -> bool:
        """Remember a child Job; tell whether it is news."""
        self._add_maker(item)
        return _put(self._jobs, item)

    def put_pod(self, item: Mapping[str, Any]) -> bool:
        """Remember a child Pod; tell whether it is news."""
        self._add_maker(item)
        return _put(self._pods, item)

    def drop_job(self, item: Mapping[str, Any]) -> None:
        """Forget a child Job that is gone."""
        _drop(self._jobs, item)
        self._remove_maker(item)

    def drop_pod(self, item: Mapping[str, Any]) -> None:
        """Forget a child Pod that is gone."""
        _drop(self._pods, item)
        self._remove_maker(item)

    def _add_maker(self, item: Mapping[str, Any]) -> None:
        for unit in _makes(item):
            self._makers[unit].add((_owner(item), item["metadata"]["name"]))

    def _remove_maker(self, item: Mapping[str, Any]) -> None:
        for unit in _makes(item):
            self._makers[unit].discard((_owner(item), item["metadata"]["name"]))
            if not self._makers[unit]:
                del self._makers[unit]

    def jobs_of(self, uid: str) -> list[Object]:
        """Return the child Jobs of a FineTuneJob, the newest attempt first."""
        return sorted(self._jobs.get(uid, {}).values(), key=_attempt, reverse=True)

    def pods_of(self, uid: str, job: Mapping[str, Any]) -> list[Object]:
        """Return the Pods of a child Job."""
        owner = job["metadata"]["uid"]
        return [
            pod
            for pod in self._pods.get(uid, {}).values()
            if any(ref["uid"] == owner for ref in pod["metadata"].get("ownerReferences") or ())
        ]

    def has_job(self, uid: str, name: str) -> bool:
        """Tell whether a FineTuneJob has a child Job of that name."""
        return name in self._jobs.get(uid, {})

    def made_elsewhere(self, namespace: str, uid: str, units: Iterable[str]) -> dict[str, str]:
        """Return, by unit key, another FineTuneJob of the namespace whose Job or Pod makes that unit now.

        It may be one that is deleted already: Kubernetes removes a Job before its Pods have ended.
        """
        found = {}
        for unit in units:
            for owner, name in self._makers.get((namespace, unit), ()):
                maker = self._jobs.get(owner, {}).get(name) or self._pods.get(owner, {}).get(name)
                if owner != uid and maker is not None and _is_active(maker):
                    found[unit] = str(maker["metadata"]["labels"][keys.JOB_LABEL])
        return found

    def claimants(self, server: str, model: str) -> list[Object]:
        """Return the FineTuneJobs, of all namespaces, that want to serve `model` on `server`."""
        found = (self.finetunejobs.get(key) for key in self._claims.get((server, model), ()))
        return [item for item in found if item is not None]

    # --- the whole

    def replace(self, finetunejobs: Iterable[Object], jobs: Iterable[Object], pods: Iterable[Object]) -> set[Key]:
        """Take over full lists; return the FineTuneJobs of which something was not known or is gone.

        Objects that the operator has written after the lists were read are not lost: what is newer stays, and what is
        missing from a list is dropped only if it is older than the newest object in it.
        """
        changed: set[Key] = set()
        listed = {key_of(item): item for item in finetunejobs}
        newest = max((_version(item) for item in listed.values()), default=0)
        for item in listed.values():
            if self.put_finetunejob(item):
                changed.add(key_of(item))
        for key, item in list(self.finetunejobs.items()):
            if key not in listed and _version(item) <= newest:
                self.drop_finetunejob(item)
                changed.add(key)
        owners = {item["metadata"]["uid"]: key for key, item in self.finetunejobs.items()}
        news = _replace(self._jobs, list(jobs), self.put_job, self.drop_job)
        news |= _replace(self._pods, list(pods), self.put_pod, self.drop_pod)
        return changed | {owners[uid] for uid in news if uid in owners}


def claims(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs of server and model that a FineTuneJob wants to serve, one for each quantization.

    Models have the form by which the server tells them apart.
    """
    spec = item.get("spec") or {}
    ollama, export = spec.get("ollama") or {}, spec.get("export") or {}
    names = live_names(str(ollama.get("model", "")), export.get("quantizations") or [""])
    models = [canonical(name) for name in names.values()]
    return [(str(server), model) for server in ollama.get("servers") or () for model in models]


def _makes(child: Mapping[str, Any]) -> list[tuple[str, str]]:
    units = (child["metadata"].get("annotations") or {}).get(keys.KEYS_ANNOTATION, "").split(",")
    return [(child["metadata"]["namespace"], unit) for unit in units if unit]


def _is_active(child: Mapping[str, Any]) -> bool:
    """Tell whether a Job or Pod has not ended, and will not just go away."""
    status = child.get("status") or {}
    if "phase" in status:
        return status["phase"] not in {"Succeeded", "Failed"}
    conditions = status.get("conditions") or ()
    ended = any(item["type"] in {"Complete", "Failed"} and item["status"] == "True" for item in conditions)
    return not ended and not child["metadata"].get("deletionTimestamp")


def _owner(item: Mapping[str, Any]) -> str:
    return str((item["metadata"].get("labels") or {}).get(keys.UID_LABEL, ""))


def _attempt(job: Mapping[str, Any]) -> int:
    label = (job["metadata"].get("labels") or {}).get(keys.ATTEMPT_LABEL, "")
    return int(label) if label.isdigit() else 0


def _version(item: Mapping[str, Any]) -> int:
    """Return an object's resource version: since Kubernetes 1.35 they are numbers that may be compared (KEP-5504)."""
    version = str(item["metadata"].get("resourceVersion", ""))
    return int(version) if version.isdigit() else 0


def _is_newer(item: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    return item["metadata"]["uid"] != known["metadata"]["uid"] or _version(item) > _version(known)


def _put(store: dict[str, dict[str, Object]], item: Mapping[str, Any]) -> bool:
    siblings, name = store[_owner(item)], item["metadata"]["name"]
    if name in siblings and not _is_newer(item, siblings[name]):
        return False
    siblings[name] = slim(item, whole_spec=False)
    return True


def _drop(store: dict[str, dict[str, Object]], item: Mapping[str, Any]) -> None:
    owner, name = _owner(item), item["metadata"]["name"]
    siblings = store.get(owner, {})
    if name in siblings and siblings[name]["metadata"]["uid"] == item["metadata"]["uid"]:
        del siblings[name]
        if not siblings:
            del store[owner]


def _replace(
    store: dict[str, dict[str, Object]],
    items: list[Object],
    put: Callable[[Object], bool],
    drop: Callable[[Object], None],
) -> set[str]:
    """Take over a full list; return the owners of what was not known or is gone."""
    newest = max((_version(item) for item in items), default=0)
    there = {item["metadata"]["uid"] for item in items}
    changed = {_owner(item) for item in items if put(item)}
    for item in [item for siblings in store.values() for item in siblings.values()]:
        if item["metadata"]["uid"] not in there and _version(item) <= newest:
            drop(item)
            changed.add(_owner(item))
    return changed
