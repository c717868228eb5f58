"""The operator's memory of the cluster: whose children are whose, what is newer, and that nothing stays for ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tunesmith.kube.cache import Cache, Key
from tunesmith.kube.cluster import Listing, Object
from tunesmith.kube.items import News

UID = "u-bot"
VOLUME = ("claim", "")


def finetunejob(name: str = "bot", version: int = 1, **more: Any) -> Object:
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": f"u-{name}", "resourceVersion": str(version)},
        "spec": {"ollama": {"model": f"{name}:v1", "servers": ["main"]}},
        **more,
    }


def owned(kind: str, name: str, uid: str) -> list[Object]:
    group = "batch/v1" if kind == "Job" else "tunesmith.dev/v1alpha1"
    return [{"apiVersion": group, "kind": kind, "name": name, "uid": uid, "controller": True}]


def pod_spec(claim: str = "claim", **mount: str) -> Object:
    return {
        "volumes": [{"name": "config"}, {"name": "volume", "persistentVolumeClaim": {"claimName": claim}}],
        "containers": [{"volumeMounts": [{"name": "volume", "mountPath": "/volume", **mount}]}],
    }


def job(name: str = "job", version: int = 2, owner: str = "bot", **status: Any) -> Object:
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": f"u-{name}",
            "resourceVersion": str(version),
            "labels": {"tunesmith.dev/job": owner},
            "annotations": {"tunesmith.dev/keys": "k1,k2"},
            "ownerReferences": owned("FineTuneJob", owner, f"u-{owner}"),
        },
        "spec": {"template": {"spec": pod_spec()}},
        "status": status,
    }


def pod(name: str = "pod", version: int = 3, of: str = "job", phase: str = "Running", **mount: str) -> Object:
    made = job(name, version)
    meta = {**made["metadata"], "ownerReferences": owned("Job", of, f"u-{of}")}
    return {"metadata": meta, "spec": pod_spec(**mount), "status": {"phase": phase}}


def cache_of(*items: Object) -> Cache:
    cache = Cache()
    for item in items:
        kind = item["metadata"].get("ownerReferences", [{"kind": ""}])[0]["kind"]
        {"": cache.put_finetunejob, "FineTuneJob": cache.put_job, "Job": cache.put_pod}[kind](item)
    return cache


def test_news_name_the_finetunejob_to_be_looked_at() -> None:
    """What was not known names the FineTuneJob that it belongs to; what was known names none."""
    cache = Cache()
    for put, item in ((cache.put_finetunejob, finetunejob()), (cache.put_job, job()), (cache.put_pod, pod())):
        assert put(item) == Key("ns", "bot")
        assert put(item) is None
    for drop, item in ((cache.drop_pod, pod()), (cache.drop_job, job()), (cache.drop_finetunejob, finetunejob())):
        assert drop(item) == Key("ns", "bot")
        assert drop(item) is None


def test_what_is_older_replaces_nothing() -> None:
    """Events come late: an older state of a Job, even of another one of that name, is not taken."""
    cache = cache_of(finetunejob(), job(version=9, completionTime="now"))
    before = {**job(version=5), "metadata": {**job(version=5)["metadata"], "uid": "u-earlier"}}
    assert cache.put_job(before) is None
    assert cache.drop_job(before) is None
    assert cache.jobs_of("ns", UID)[0]["status"] == {"completionTime": "now"}


def test_what_tells_nothing_is_no_news() -> None:
    """How many Pods of a Job run its Pods tell themselves: of that alone nobody is woken, and an older state is old."""
    cache = cache_of(finetunejob(), job(version=5), pod(version=6))
    assert cache.put_job(job(version=8, active=1, ready=1, startTime="now")) is None
    assert cache.put_job(job(version=7, conditions=[{"type": "Failed", "status": "True"}])) is None
    assert cache.put_job(job(version=9, conditions=[{"type": "Failed", "status": "True"}])) == Key("ns", "bot")
    assert cache.put_pod(pod(version=10)) is None
    assert cache.put_pod(pod(version=11, phase="Failed")) == Key("ns", "bot")


NOT_OURS: dict[str, dict[str, Any]] = {
    "no owner": {"ownerReferences": []},
    "an owner that does not control it": {
        "ownerReferences": [{**owned("FineTuneJob", "bot", UID)[0], "controller": False}]
    },
    "another kind of owner": {"ownerReferences": owned("Job", "bot", UID)},
    "another API's FineTuneJob": {
        "ownerReferences": [{**owned("FineTuneJob", "bot", UID)[0], "apiVersion": "other.dev/v1"}]
    },
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_labels_make_nobody_a_child(case: str) -> None:
    """A Job is a FineTuneJob's child only if that controls it, in the same namespace."""
    strange = {**job(), "metadata": {**job()["metadata"], "labels": {"tunesmith.dev/job-uid": UID}, **NOT_OURS[case]}}
    cache = cache_of(finetunejob())
    assert cache.put_job(strange) is None
    assert cache.jobs_of("ns", UID) == []


def test_a_job_of_another_namespace_is_nobodys_child() -> None:
    """An owner reference names nothing in another namespace."""
    cache = cache_of(finetunejob())
    cache.put_job({**job(), "metadata": {**job()["metadata"], "namespace": "elsewhere"}})
    assert cache.jobs_of("ns", UID) == []
    assert cache.job("ns", UID, "job") is None


def test_a_job_that_is_given_away_is_not_ours_any_more() -> None:
    """A Job whose owner reference is taken out is forgotten."""
    cache = cache_of(finetunejob(), job())
    given = job(version=7)
    given["metadata"]["ownerReferences"] = []
    assert cache.put_job(given) == Key("ns", "bot")
    assert cache.jobs_of("ns", UID) == []


def test_pods_come_before_their_job_or_after_it() -> None:
    """A Pod belongs to the Job that controls it, whichever was heard of first."""
    for items in ((finetunejob(), pod(), job()), (finetunejob(), job(), pod())):
        cache = cache_of(*items)
        (known,) = cache.jobs_of("ns", UID)
        assert [item["metadata"]["name"] for item in cache.pods_of(known)] == ["pod"]


# --- who makes what --------------------------------------------------------------------------------------------------

MAKERS: dict[str, tuple[list[Object], dict[str, str]]] = {
    "a Job of another one": ([job(owner="other")], {"k1": "other"}),
    "its own Job": ([job()], {}),
    "its own Pod": ([job(), pod()], {}),
    "its own Pod whose Job is gone": ([pod()], {"k1": "bot"}),
    "its own Pod that ended, without a Job": ([pod(phase="Succeeded")], {}),
    "a Pod of another one whose Job has ended": (
        [job(owner="other", conditions=[{"type": "Failed", "status": "True"}]), pod()],
        {"k1": "other"},
    ),
    "a Job that has ended": ([job(owner="other", conditions=[{"type": "Complete", "status": "True"}])], {}),
    "a Pod on another claim": ([pod(claim="more")], {}),
    "a Pod in another folder": ([pod(subPath="a/b")], {}),
    "a Pod with the same folder, otherwise written": ([pod(subPath="/")], {"k1": "bot"}),
}


@pytest.mark.parametrize("case", MAKERS)
def test_what_is_made_elsewhere(case: str) -> None:
    """Whatever may still write to the same place counts: other jobs' Jobs and Pods, and own Pods without a Job."""
    items, expected = MAKERS[case]
    cache = cache_of(finetunejob(), finetunejob("other"), *items)
    assert cache.made_elsewhere("ns", UID, VOLUME, ["k1", "k9"]) == expected


def test_a_look_up_makes_nothing() -> None:
    """Nobody waits for a Job that only looks at what is there."""
    looks = job(owner="other")
    looks["metadata"]["annotations"]["tunesmith.dev/lookup"] = "true"
    assert cache_of(finetunejob(), looks).made_elsewhere("ns", UID, VOLUME, ["k1"]) == {}


def test_only_those_that_wait_for_it_are_woken() -> None:
    """The end of a Job wakes who waits for one of its units, once nobody else makes it."""
    woken: list[Key] = []
    cache = Cache(woken.append)
    for name, unit in (("waits", "k1"), ("for-more", "k8")):
        waiting = {"conditions": [{"type": "Ready", "reason": "MadeElsewhere"}], "stages": [{"keys": [unit]}]}
        cache.put_finetunejob(finetunejob(name, status=waiting))
    cache.put_job(job(owner="other"))
    cache.put_pod(pod(of="job"))
    cache.drop_job(job(owner="other"))
    assert woken == []
    cache.drop_pod(pod())
    assert woken == [Key("ns", "waits")]


# --- the whole -------------------------------------------------------------------------------------------------------


def replace(cache: Cache, finetunejobs: Listing[Object], jobs: Listing[Object], pods: Listing[Object]) -> set[Key]:
    changed = cache.replace_finetunejobs(read(finetunejobs, cache.read_finetunejob))
    return changed | cache.replace_jobs(read(jobs, cache.read_job)) | cache.replace_pods(read(pods, cache.read_pod))


def read(listing: Listing[Object], reading: Callable[[Object], News]) -> Listing[News]:
    return Listing([reading(item) for item in listing.items], listing.version)


def test_lists_bring_what_was_missed_and_take_what_is_gone() -> None:
    """An object that a list lacks is dropped if the list is newer than it, whatever else the list holds."""
    cache = cache_of(finetunejob(version=40), job(version=41), pod(version=42))
    assert replace(cache, Listing([], 45), Listing([], 45), Listing([], 45)) == {Key("ns", "bot")}
    assert cache.finetunejobs == {}
    assert cache.jobs_of("ns", UID) == []
    listed: tuple[Listing[Object], ...] = (
        Listing([finetunejob(version=50)], 52),
        Listing([job(version=51)], 53),
        Listing([], 54),
    )
    assert replace(cache, *listed) == {Key("ns", "bot")}
    assert replace(cache, *listed) == set()


def test_a_list_that_tells_the_same_costs_no_memory() -> None:
    """What is read of an object that has not changed is what is there already; of another one only what is kept."""
    cache = cache_of(finetunejob(), job(), pod())
    assert cache.read_finetunejob(finetunejob()).kept is cache.finetunejobs[Key("ns", "bot")]
    assert cache.read_job(job()).kept is cache.jobs_of("ns", UID)[0]
    assert cache.read_pod(pod()).kept is cache.pods_of(job())[0]
    changed = pod(version=9)
    changed["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    kept = cache.read_pod(changed).kept
    assert kept is not None
    assert kept["metadata"]["resourceVersion"] == "9"
    assert "managedFields" not in kept["metadata"]


def test_objects_share_their_texts() -> None:
    """Thousands of objects, each parsed for itself, keep the names of their fields and their short texts but once."""
    one, other = (json.loads(json.dumps(finetunejob(name))) for name in ("bot", "cat"))
    cache = cache_of(one, other)
    kept = [cache.finetunejobs[Key("ns", name)] for name in ("bot", "cat")]
    names = [next(iter(item["metadata"])) for item in kept]
    assert names[0] is names[1]
    assert kept[0]["spec"]["ollama"]["servers"][0] is kept[1]["spec"]["ollama"]["servers"][0]


def test_lists_that_are_older_than_an_object_do_not_take_it() -> None:
    """What was created after a list was read stays."""
    cache = cache_of(finetunejob(version=1), job(version=60), pod(version=61))
    assert replace(cache, Listing([finetunejob(version=1)], 50), Listing([], 50), Listing([], 50)) == set()
    assert len(cache.jobs_of("ns", UID)) == 1


def test_nothing_stays_for_ever() -> None:
    """After thousands of jobs came and went, the cache holds nothing of them once the next lists are there."""
    cache = Cache()
    for number in range(50):
        name = f"n{number}"
        items = finetunejob(name), job(f"j{number}", owner=name), pod(f"p{number}", of=f"j{number}")
        cache.put_finetunejob(items[0])
        cache.put_job(items[1])
        cache.put_pod(items[2])
        cache.drop_finetunejob(items[0])
        cache.drop_job(items[1])
        cache.drop_pod(items[2])
    replace(cache, Listing([], 1000), Listing([], 1000), Listing([], 1000))
    held: list[Any] = [cache]
    sizes = 0
    while held:
        values = vars(held.pop()).values()
        sizes += sum(len(value) for value in values if isinstance(value, dict))
        held += [value for value in values if type(value).__module__.startswith("tunesmith")]
    assert sizes == 0


def test_the_copy_that_kubectl_apply_leaves_is_not_kept() -> None:
    """An applied object holds itself once more in an annotation; the other annotations stay."""
    applied = finetunejob()
    applied["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": "{...}",
        "tunesmith.dev/retry": "1",
    }
    kept = cache_of(applied).finetunejobs[Key("ns", "bot")]["metadata"]["annotations"]
    assert kept == {"tunesmith.dev/retry": "1"}
    assert len(applied["metadata"]["annotations"]) == 2, "what was given is not changed"
