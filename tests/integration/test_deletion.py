"""`deletionPolicy: Delete` on a real API server: finalizers, the garbage collector, and a namespace that ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from support.builders import job_data
from support.chart import wait_until
from support.cluster import ApiServer, api_server
from support.generator import ROOT
from support.installed import until, volume_of
from tunesmith.api import keys
from tunesmith.api.settings import Settings
from tunesmith.core.conditions import Note
from tunesmith.kube.cache import Cache, Key
from tunesmith.kube.client import KubeCluster
from tunesmith.kube.cluster import FINETUNEJOBS, JOBS, PODS, ApiError
from tunesmith.reconcile import Reconciler
from tunesmith.running_logs import RunningLogs

SETTINGS = Settings.model_validate(
    {"stageImage": "registry.example/tunesmith-stages:1", "servers": [{"name": "main", "url": "http://ollama:11434"}]}
)
DEFINITION = ROOT / "charts" / "tunesmith" / "files" / "tunesmith.dev_finetunejobs.yaml"
KEY = "a" * 64
REGISTERED = {
    "observedGeneration": 1,
    "stages": [
        {
            "name": "register",
            "state": "Succeeded",
            "keys": [KEY],
            "attempts": 1,
            "units": [{"name": "main", "key": KEY, "digest": KEY, "bytes": 1}],
        }
    ],
    "ollama": [{"server": "main", "models": ["support-bot:v1"]}],
}
"""The status of a job that serves its model."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Yield an API server with nodes that are played: the pods of a Job succeed at once, without a report."""
    with api_server(tmp_path_factory.mktemp("deletion") / "server", kwok=True) as running:
        running.kubectl("apply", "--server-side", f"--filename={DEFINITION}")
        until(lambda: running.serves(keys.PLURAL), 60, lambda: "the definition is not served")
        running.add_nodes(1, gpus=0)
        yield running


@pytest.fixture
def namespace(server: ApiServer, request: pytest.FixtureRequest) -> str:
    """Return a namespace of the test's own, with a volume."""
    name = f"ns-{abs(hash(request.node.name)) % 10**8}"
    server.kubectl("create", "namespace", name)
    server.kubectl("apply", "--filename=-", objects=volume_of(name, "tunesmith", ROOT))
    until(lambda: _has_account(server, name), 60, lambda: "there is no ServiceAccount")
    return name


def _has_account(server: ApiServer, namespace: str) -> bool:
    try:
        server.get("serviceaccount", "default", "--namespace", namespace)
    except subprocess.CalledProcessError:
        return False
    return True


def serving(server: ApiServer, namespace: str, name: str = "bot") -> dict[str, Any]:
    """Create a FineTuneJob that serves its model already, as the operator has left it."""
    data = job_data({"metadata.name": name, "spec.ollama.deletionPolicy": "Delete"})
    data["metadata"] |= {"namespace": namespace, "finalizers": [keys.FINALIZER]}
    server.kubectl("create", "--filename=-", objects=data)
    patch = json.dumps({"status": REGISTERED})
    at = ["finetunejob", name, "--namespace", namespace]
    server.kubectl("patch", *at, "--subresource=status", "--type=merge", f"--patch={patch}")
    found: dict[str, Any] = server.get(*at)
    return found


def child(server: ApiServer, item: dict[str, Any], name: str) -> None:
    """Create a Job that the FineTuneJob owns and that cannot run."""
    meta = item["metadata"]
    owner = {"apiVersion": "tunesmith.dev/v1alpha1", "kind": "FineTuneJob", "name": meta["name"], "uid": meta["uid"]}
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": {"no": "where"},
        "containers": [{"name": "stage", "image": "registry.example/none:1"}],
    }
    labels = {keys.UID_LABEL: meta["uid"], keys.STAGE_LABEL: "train", keys.ATTEMPT_LABEL: "1"}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": labels,
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {"template": {"metadata": {"labels": labels}, "spec": pod}},
    }
    server.kubectl("create", "--filename=-", objects=job)


class Operator:
    """Our operator without its watches: it looks at the whole namespace again and again."""

    def __init__(self, cluster: KubeCluster, namespace: str, name: str) -> None:
        self.cluster = cluster
        self.key = Key(namespace, name)
        self.cache = Cache()
        self.notes: list[Note] = []
        self.reconciler = Reconciler(
            cluster,
            self.cache,
            SETTINGS,
            now=lambda: datetime.now(UTC),
            tell=lambda _item, note: self.notes.append(note),
            logs=RunningLogs(cluster, read_after=lambda _key, _seconds: None, wake=lambda _key: None),
        )

    async def look(self) -> bool:
        """Look once; tell whether the FineTuneJob is there."""
        cluster, cache, namespace = self.cluster, self.cache, self.key.namespace
        cache.replace_finetunejobs(await cluster.list_all(FINETUNEJOBS, namespace, cache.read_finetunejob))
        cache.replace_jobs(await cluster.list_all(JOBS, namespace, cache.read_job))
        cache.replace_pods(await cluster.list_all(PODS, namespace, cache.read_pod))
        try:
            await self.reconciler.reconcile(self.key)
        except ApiError as error:
            if not (error.conflict or error.gone):  # the queue has it looked at again
                raise
        return self.key in self.cache.finetunejobs

    async def until(self, seen: Callable[[], bool] = lambda: False, seconds: float = 240) -> None:
        """Look until something is seen, or else until the FineTuneJob is gone."""
        last = time.monotonic() + seconds
        while await self.look() and not seen():
            assert time.monotonic() < last, self.cache.finetunejobs
            await asyncio.sleep(0.2)

    def removals(self) -> list[str]:
        jobs = self.cache._jobs.items.values()
        notes = ((job, job["metadata"].get("annotations") or {}) for job in jobs)
        return [job["metadata"]["uid"] for job, note in notes if note.get(keys.REMOVAL_ANNOTATION) == "true"]


@asynccontextmanager
async def operator(server: ApiServer, namespace: str, name: str = "bot") -> AsyncIterator[Operator]:
    configuration = Configuration()
    await config.load_kube_config(str(server.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
    async with ApiClient(configuration) as client:
        yield Operator(KubeCluster(client), namespace, name)


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
def test_the_removal_runs_before_the_job_goes(server: ApiServer, namespace: str, cascade: str) -> None:
    """However it is deleted: what it owns goes, a Job that removes its models runs to its end, then it is gone."""
    item = serving(server, namespace)
    child(server, item, "bot-train-1")
    at = ["finetunejob", "bot", "--namespace", namespace]
    server.kubectl("delete", *at, "--wait=false", f"--cascade={cascade}")
    seen: set[str] = set()

    async def life() -> list[Note]:
        async with operator(server, namespace) as ours:
            while await ours.look():
                seen.update(ours.removals())
                await asyncio.sleep(0.2)
            return ours.notes

    notes = asyncio.run(life())
    assert len(seen) == 1, "it was created once, and the garbage collector left it alone"
    assert [note.reason for note in notes] == ["RemovingModels"]
    assert told_before_it_went(server, namespace) == ["ModelsRemoved"]
    if cascade != "orphan":  # then it is for whoever asked for that to remove what is left
        until(lambda: not children(server, namespace), 60, lambda: "children stay")


def told_before_it_went(server: ApiServer, namespace: str) -> list[str]:
    """Return the reasons of the Events that the operator had created before the FineTuneJob was gone."""
    events = server.get("events", "--namespace", namespace, "--field-selector", f"involvedObject.kind={keys.KIND}")
    return [event["reason"] for event in events["items"]]


def children(server: ApiServer, namespace: str) -> list[Any]:
    """Return what the operator has created there."""
    return list(server.get("jobs,configmaps", "--namespace", namespace, "--selector", keys.UID_LABEL)["items"])


def test_a_second_deletion_in_the_foreground(server: ApiServer, namespace: str) -> None:
    """The garbage collector takes a removal that has begun if somebody asks for foreground then: it is begun anew."""
    serving(server, namespace)
    server.kubectl("cordon", "played0")
    at = ["finetunejob", "bot", "--namespace", namespace]
    seen: list[str] = []

    async def life() -> None:
        async with operator(server, namespace) as ours:
            server.kubectl("delete", *at, "--wait=false")
            await ours.until(lambda: bool(ours.removals()))
            seen.extend(ours.removals())
            server.kubectl("delete", *at, "--wait=false", "--cascade=foreground")
            await ours.until(lambda: bool({*ours.removals()} - {*seen}))
            seen.extend({*ours.removals()} - {*seen})
            server.kubectl("uncordon", "played0")
            await ours.until()

    try:
        asyncio.run(life())
    finally:
        server.kubectl("uncordon", "played0")
    assert len(seen) == 2
    assert told_before_it_went(server, namespace) == ["ModelsRemoved"]


def test_a_namespace_that_is_deleted(server: ApiServer, namespace: str) -> None:
    """It is not held up: the API server takes no Job any more, so what is left is told, and the FineTuneJob goes."""
    serving(server, namespace)
    server.kubectl("delete", "namespace", namespace, "--wait=false")
    at = ("finetunejob", "bot", "--namespace", namespace)
    wait_until("its FineTuneJob is deleted", lambda: "deletionTimestamp" in server.get(*at)["metadata"])

    async def life() -> list[Note]:
        async with operator(server, namespace) as ours:
            began = time.monotonic()
            await ours.until()
            assert time.monotonic() - began < 60
            return ours.notes

    (note,) = asyncio.run(life())
    assert (note.type, note.reason) == ("Warning", "ModelsLeftBehind")
    assert "support-bot:v1 on server 'main'" in note.message
    assert "being terminated" in note.message


def test_finalizers_are_written_only_to_what_was_read(server: ApiServer, namespace: str) -> None:
    """Somebody else's finalizer that came meanwhile is not lost: the write is refused. Nothing else is written."""
    item = serving(server, namespace)
    at = ["finetunejob", "bot", "--namespace", namespace]
    server.kubectl("patch", *at, "--type=merge", '--patch={"metadata": {"finalizers": ["example.com/other"]}}')

    async def write(**changes: Any) -> dict[str, Any]:
        async with operator(server, namespace) as ours:
            now = server.get(*at)
            stale = {**now, "spec": {}, "metadata": {**now["metadata"], **changes}}
            return await ours.cluster.set_finalizers(stale, ["example.com/other", keys.FINALIZER])

    for changes in ({"resourceVersion": item["metadata"]["resourceVersion"]}, {"uid": item["metadata"]["uid"][::-1]}):
        with pytest.raises(ApiError) as refused:
            asyncio.run(write(**changes))
        assert refused.value.status in {409, 422}, refused.value
    written = asyncio.run(write())
    assert written["metadata"]["finalizers"] == ["example.com/other", keys.FINALIZER]
    assert written["metadata"]["generation"] == item["metadata"]["generation"]
    assert written["spec"] == item["spec"]


def test_the_policy_has_a_default_that_the_server_keeps(server: ApiServer, namespace: str) -> None:
    """Without a word a model is retained; anything but the two words is refused by the API server."""
    data = job_data({"metadata.name": "plain", "metadata.namespace": namespace})
    server.kubectl("create", "--filename=-", objects=data)
    made = server.get("finetunejob", "plain", "--namespace", namespace)
    assert made["spec"]["ollama"]["deletionPolicy"] == "Retain"
    assert "finalizers" not in made["metadata"]
    data["metadata"]["name"] = "wrong"
    data["spec"]["ollama"]["deletionPolicy"] = "Orphan"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        server.kubectl("create", "--filename=-", objects=data)
    assert "spec.ollama.deletionPolicy" in refused.value.stderr
