"""`kubectl tunesmith logs` as a whole: from which pods, until when, and when from the volume."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from tunesmith.api.pods import Storage
from tunesmith.api.status import StorageInUse
from tunesmith.cli.kubectl import log_reader, logs, pod_log
from tunesmith.cli.kubectl.errors import SaidError
from tunesmith.cli.kubectl.log_reader import reader_pod
from tunesmith.cli.kubectl.logs import Wanted, show_logs
from tunesmith.kube.cluster import ApiError
from unit.cli.kubectl.items import PLACE, container, item, job_name, pod, ready, stage
from unit.cli.kubectl.played_api import Answer, PlayedApi, serving

ATTEMPT = job_name("train", 2)
STARTED: Mapping[str, Any] = {"phase": "Running", "containerStatuses": container(running={})}
OVER: Mapping[str, Any] = {"phase": "Succeeded", "containerStatuses": container(terminated={"exitCode": 0})}
BROKEN: Mapping[str, Any] = {
    "phase": "Failed",
    "containerStatuses": container(terminated={"exitCode": 66, "reason": "Error"}),
}
GONE = Answer(b"unable to retrieve container logs for containerd://5f")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything look a hundred times as often."""
    monkeypatch.setattr(logs, "_POLL", 0.02)
    monkeypatch.setattr(logs, "_QUIET_SECONDS", 0.2)
    monkeypatch.setattr(log_reader, "_POLL", 0.01)
    monkeypatch.setattr(pod_log, "_FIRST_PAUSE", 0.01)


def trained(state: str, **more: Any) -> dict[str, Any]:
    """Return a FineTuneJob whose training is in a state, at its second attempt."""
    stages = [stage("fetch", "Succeeded", 1), stage("train", state, 2, **more)]
    return item({**ready("Training"), **PLACE, "stages": stages})


def told_of(api: PlayedApi, **wanted: Any) -> tuple[str, list[str]]:
    """Return what `logs` prints, and what it tells meanwhile."""
    to, told = io.BytesIO(), list[str]()

    async def read() -> None:
        async with serving(api) as cluster:
            await asyncio.wait_for(show_logs(cluster, "team-a", "support-bot", Wanted(**wanted), to, told.append), 20)

    asyncio.run(read())
    return to.getvalue().decode(), told


def refused(api: PlayedApi, **wanted: Any) -> SaidError:
    with pytest.raises(SaidError) as error:
        told_of(api, **wanted)
    return error.value


# --- from pods -------------------------------------------------------------------------------------------------------


def test_of_a_pod_that_runs() -> None:
    """What a running stage has printed so far is printed, and the program ends."""
    api = PlayedApi(trained("Running"))
    api.put(pod(ATTEMPT, **STARTED), Answer(b"step 1\n"))
    assert told_of(api) == ("step 1\n", [])


def test_of_a_pod_that_has_ended() -> None:
    """As long as the pod of an ended attempt is there its log is read from it; no pod is created."""
    api = PlayedApi(trained("Succeeded"))
    api.put(pod(ATTEMPT, **OVER), Answer(b"done\n"))
    api.put(pod(job_name("train", 1), **BROKEN), Answer(b"of another attempt\n"))
    assert told_of(api) == ("done\n", [f"train {ATTEMPT}, from its pod"])
    assert api.created == []


def test_of_several_nodes() -> None:
    """Pods that train together are printed in the order of their numbers, each line with its number."""
    api = PlayedApi(trained("Running"))
    for index in (1, 0):
        api.put(pod(ATTEMPT, f"{index}-x", index=index, **STARTED), Answer(b"a\nb\n"))
    assert told_of(api)[0] == "[0] a\n[0] b\n[1] a\n[1] b\n"


def test_of_a_pod_and_the_one_before_it() -> None:
    """A pod that took the place of an evicted one comes after it, each under its name."""
    api = PlayedApi(trained("Running"))
    for age, name in enumerate(("zz", "aa")):
        made = pod(ATTEMPT, name, **STARTED)
        made["metadata"]["creationTimestamp"] = f"2026-05-04T12:00:0{age}Z"
        api.put(made, Answer(f"{name}\n".encode()))
    assert told_of(api)[0] == f"==> {ATTEMPT}-zz <==\nzz\n==> {ATTEMPT}-aa <==\naa\n"


NOTHING_YET: dict[str, tuple[dict[str, Any], list[dict[str, Any]], str]] = {
    "no pod": (trained("Pending", reason="QuotaExceeded", message="8 GPUs are in use"), [], ": QuotaExceeded: 8 GPUs"),
    "a pod without a node": (
        trained("Pending", reason="Unschedulable", message="no node"),
        [pod(ATTEMPT, phase="Pending")],
        ": Unschedulable: no node",
    ),
    "only just created": (trained("Pending"), [], "has not started yet."),
}


@pytest.mark.parametrize(("data", "pods", "why"), NOTHING_YET.values(), ids=NOTHING_YET)
def test_of_a_program_that_has_not_started(data: dict[str, Any], pods: list[dict[str, Any]], why: str) -> None:
    """A stage that waits has no log: it is told what it waits for, and that --follow waits too."""
    api = PlayedApi(data)
    for waiting in pods:
        api.put(waiting, Answer(status=400))
    error = refused(api)
    assert why in error.what
    assert "--follow" in error.hint
    assert api.created == []


# --- followed --------------------------------------------------------------------------------------------------------


def lines(*texts: str) -> bytes:
    return b"".join(b"2026-05-04T12:00:00.%09dZ %s\n" % (i, text.encode()) for i, text in enumerate(texts, 1))


def test_follow_from_before_the_start() -> None:
    """Who follows a stage that waits is told for what, then sees its log until the attempt is over."""
    api = PlayedApi(trained("Pending", reason="Unschedulable", message="no node"))
    name = api.put(
        pod(ATTEMPT, phase="Pending"), Answer(lines("a", "b"), then=lambda: end(api, name, OVER, "Succeeded"))
    )

    async def read() -> tuple[bytes, list[str]]:
        to, told = io.BytesIO(), list[str]()
        async with serving(api) as cluster, asyncio.timeout(20):
            wanted = Wanted(follow=True)
            task = asyncio.create_task(show_logs(cluster, "team-a", "support-bot", wanted, to, told.append))
            while not told:  # noqa: ASYNC110 - it is told nothing before it has looked
                await asyncio.sleep(0.01)
            api.pods[name]["status"] = STARTED
            api.job = trained("Running")
            await task
        return to.getvalue(), told

    assert asyncio.run(read()) == (b"a\nb\n", ["train waits: Unschedulable: no node"])


def end(api: PlayedApi, name: str, status: Mapping[str, Any], state: str, **more: Any) -> None:
    """End a pod and the attempt."""
    api.pods[name]["status"] = status
    api.job = trained(state, **more)


def test_follow_several_nodes() -> None:
    """Lines of pods that train together come as they are written, each whole, with the pod's number."""
    api = PlayedApi(trained("Running"))
    for index in (0, 1):
        name = f"{ATTEMPT}-{index}-x"
        ends = partial(end, api, name, OVER, "Running" if index == 0 else "Succeeded")
        api.put(pod(ATTEMPT, f"{index}-x", index=index, **STARTED), Answer(lines("a", "b"), then=ends))
    printed, _ = told_of(api, follow=True)
    assert sorted(printed.splitlines()) == ["[0] a", "[0] b", "[1] a", "[1] b"]


def test_follow_a_failure() -> None:
    """At the end it is told why the attempt failed."""
    api = PlayedApi(trained("Running"))
    why = {"reason": "Unavailable", "message": "Ollama is away"}
    name = f"{ATTEMPT}-x1"
    api.put(pod(ATTEMPT, **STARTED), Answer(lines("a"), then=lambda: end(api, name, BROKEN, "Waiting", **why)))
    assert told_of(api, follow=True) == ("a\n", ["train ended: Unavailable: Ollama is away"])


def test_follow_into_the_next_pod() -> None:
    """When a pod is evicted, the one that takes its place is waited for, however long that takes."""
    api = PlayedApi(trained("Running"))
    second = f"{ATTEMPT}-second"

    def evicted() -> None:
        api.pods[first]["status"] = BROKEN
        api.put(
            pod(ATTEMPT, "second", phase="Pending"), Answer(lines("b"), then=partial(end, api, second, OVER, "Failed"))
        )
        asyncio.get_running_loop().call_later(0.6, lambda: api.pods[second].update(status=STARTED))

    first = api.put(pod(ATTEMPT, "first", **STARTED), Answer(lines("a"), then=evicted))
    assert told_of(api, follow=True)[0] == "a\nb\n"


def test_follow_without_an_operator() -> None:
    """When the pods have ended and nobody writes that down, it ends all the same."""
    api = PlayedApi(trained("Running"))
    name = api.put(pod(ATTEMPT, **STARTED), Answer(lines("a"), then=lambda: api.pods[name].update(status=OVER)))
    assert told_of(api, follow=True)[0] == "a\n"


def test_follow_what_is_deleted() -> None:
    """Who follows a stage of a FineTuneJob that is deleted is told so."""
    api = PlayedApi(trained("Running"))
    api.put(pod(ATTEMPT, **STARTED), Answer(lines("a"), then=lambda: setattr(api, "job", {})))
    assert refused(api, follow=True).what == "FineTuneJob support-bot was deleted."


# --- from the volume -------------------------------------------------------------------------------------------------

KEPT: dict[str, tuple[dict[str, Any], Callable[[PlayedApi], object], dict[str, Any], list[str]]] = {
    "no pods": (trained("Succeeded"), lambda _: None, {}, ["--attempt", ATTEMPT, "--stage", "train"]),
    "an earlier attempt": (
        trained("Running"),
        lambda api: api.put(pod(ATTEMPT, **STARTED), Answer(b"newer\n")),
        {"stage": "train", "attempt": "1"},
        ["--attempt", job_name("train", 1), "--stage", "train"],
    ),
    "the end of it": (
        trained("Failed"),
        lambda _: None,
        {"tail": 5},
        ["--attempt", ATTEMPT, "--stage", "train", "--tail", "5"],
    ),
    "a log that the node removed": (
        trained("Succeeded"),
        lambda api: api.put(pod(ATTEMPT, **OVER), GONE),
        {},
        ["--attempt", ATTEMPT, "--stage", "train"],
    ),
    "a node that is away": (
        trained("Running"),
        lambda api: api.put(pod(ATTEMPT, **STARTED), Answer(status=502)),
        {},
        ["--attempt", ATTEMPT, "--stage", "train"],
    ),
    "a pod that never started": (
        trained("Failed"),
        lambda api: api.put(pod(ATTEMPT, phase="Failed", reason="Evicted"), Answer(status=400)),
        {},
        ["--attempt", ATTEMPT, "--stage", "train"],
    ),
    "an attempt that is looked up": (
        trained("Unknown"),
        lambda _: None,
        {},
        ["--attempt", ATTEMPT, "--stage", "train"],
    ),
    "followed, but looked up": (
        trained("Unknown"),
        lambda _: None,
        {"follow": True},
        ["--attempt", ATTEMPT, "--stage", "train"],
    ),
    "a pod that another has replaced": (
        trained("Running"),
        lambda api: api.put(pod(ATTEMPT, "newer", **STARTED), Answer(b"newer\n")),
        {"attempt": f"{ATTEMPT}-older", "follow": True},
        ["--attempt", f"{ATTEMPT}-older", "--stage", "train"],
    ),
    "a list": (trained("Running"), lambda _: None, {"list": True}, ["--list"]),
    "a list of a stage": (
        trained("Running"),
        lambda _: None,
        {"list": True, "stage": "train"},
        ["--list", "--stage", "train"],
    ),
    "a spec that is not valid any more": (
        item(
            {**ready("InvalidSpec", stalled=True), **PLACE, "stages": [stage("train", "Failed", 2)]},
            spec={"spec.training.nodes": -1},
        ),
        lambda _: None,
        {},
        ["--attempt", ATTEMPT, "--stage", "train"],
    ),
}


@pytest.mark.parametrize(("data", "arrange", "wanted", "arguments"), KEPT.values(), ids=KEPT)
def test_kept(
    data: dict[str, Any], arrange: Callable[[PlayedApi], object], wanted: dict[str, Any], arguments: list[str]
) -> None:
    """What pods cannot tell any more is read from the volume, by a pod that is there only as long."""
    api = PlayedApi(data, reader=(OVER, Answer(b"kept\n")))
    arrange(api)
    before = set(api.pods)
    assert told_of(api, **wanted)[0] == "kept\n"
    (reader,) = api.created
    assert reader["spec"]["containers"][0]["args"] == ["--volume", "/volume", "--job", "support-bot", *arguments]
    assert set(api.pods) == before


@pytest.mark.parametrize("length", [0, 1, 4, 5, 9])
def test_kept_is_whole(length: int) -> None:
    """A log is printed whole, also if it is as short as the words of a reader that finds nothing."""
    text = "".join(f"line {number}\n" for number in range(length))
    api = PlayedApi(trained("Succeeded"), reader=(OVER, Answer(text.encode())))
    assert told_of(api)[0] == text


SAID_BY_READER: dict[str, tuple[Mapping[str, Any], bytes, str, str]] = {
    "nothing found": (
        BROKEN,
        b"LogNotFound: no log\n`--list` says which there are.\n",
        "LogNotFound: no log",
        "`--list`",
    ),
    "no words": (BROKEN, b"", "failed: Error", "`--list`"),
    "one line": (BROKEN, b"Killed\n", "Killed", "`--list`"),
    "killed in the middle": (
        {**BROKEN, "reason": "DeadlineExceeded"},
        b"a\n" * 9,
        "failed: DeadlineExceeded",
        "`--list`",
    ),
    "evicted before it started": ({"phase": "Failed", "reason": "Evicted"}, b"", "did not start: Evicted", "Try again"),
}


@pytest.mark.parametrize(("status", "log", "what", "hint"), SAID_BY_READER.values(), ids=SAID_BY_READER)
def test_reader_fails(status: Mapping[str, Any], log: bytes, what: str, hint: str) -> None:
    """When the pod that reads finds nothing, its words are the message; it is removed all the same."""
    api = PlayedApi(trained("Succeeded"), reader=(status, Answer(log)))
    error = refused(api)
    assert what in error.what
    assert hint in error.hint
    assert api.pods == {}


def test_reader_waits() -> None:
    """It is told, once, what holds the reading pod up."""
    waiting = {"phase": "Pending", "containerStatuses": container(waiting={"reason": "ErrImagePull", "message": "no"})}
    api = PlayedApi(trained("Succeeded"), reader=(waiting, Answer(b"a\n")))

    async def read() -> list[str]:
        told = list[str]()
        async with serving(api) as cluster, asyncio.timeout(20):
            task = asyncio.create_task(show_logs(cluster, "team-a", "support-bot", Wanted(), io.BytesIO(), told.append))
            while len(told) < 2:  # noqa: ASYNC110 - the first one says that the pods are gone
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            (name,) = api.pods
            api.pods[name]["status"] = OVER
            await task
        return told[1:]

    (said,) = asyncio.run(read())
    assert "waits: ImagePullBackOff" in said


def test_reader_whose_creation_is_not_answered() -> None:
    """A pod that may have been created although the server failed is deleted by the name that was chosen for it."""
    api = PlayedApi(trained("Succeeded"), refusals={"POST": 504})
    name = ""

    async def read() -> None:
        nonlocal name
        async with serving(api) as cluster:
            await show_logs(cluster, "team-a", "support-bot", Wanted(), io.BytesIO(), lambda _: None)

    stays = api.create_pod

    async def creates_and_fails(request: Any) -> Any:
        answer = await stays(request)
        nonlocal name
        name = api.created[-1]["metadata"]["name"]
        api.put({**api.created[-1], "status": OVER}, Answer(b"a\n"))
        return answer

    api.create_pod = creates_and_fails  # type: ignore[method-assign]
    with pytest.raises(ApiError, match="504"):
        asyncio.run(read())
    assert name
    assert api.pods == {}


def test_reader_that_cannot_be_deleted() -> None:
    """Who may not delete the pod is told its name."""
    api = PlayedApi(trained("Succeeded"), reader=(OVER, Answer(b"a\n")), refusals={"DELETE": 403})
    printed, told = told_of(api)
    assert printed == "a\n"
    (name,) = api.pods
    assert told[-1] == f"Pod {name} could not be deleted (no). Please delete it, if it is there."


# --- the pod that reads ----------------------------------------------------------------------------------------------


def test_reader_runs_as_the_status_says() -> None:
    """Image, claim, folder, user and groups are those of the stages; what this version does not know is passed over."""
    status = {**PLACE, "imagePullSecrets": ["mirror"]}
    status["storage"] = {**PLACE["storage"], "runAsGroup": 3000, "newerField": 1}
    spec = reader_pod(item(status), [], "0a1b")["spec"]
    security = spec["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["supplementalGroups"]) == (2000, 3000, [4000])
    assert spec["imagePullSecrets"] == [{"name": "mirror"}]
    assert spec["containers"][0]["image"] == "stages:1"
    assert spec["volumes"][0]["persistentVolumeClaim"] == {"claimName": "shared"}
    assert spec["containers"][0]["volumeMounts"][0]["subPath"] == "jobs/team-a"


def test_status_keeps_all_of_the_storage() -> None:
    """Whatever can be said of a volume the status can hold: the API server drops what its schema does not have."""
    assert set(StorageInUse.model_fields) == set(Storage.model_fields)


NO_PLACE: dict[str, tuple[dict[str, Any], str, str]] = {
    "nobody looked": ({}, "It is not known on which volume", "does it run?"),
    "never valid": (
        ready("InvalidSpec", "`spec.model` is wrong"),
        "It is not known",
        "InvalidSpec: `spec.model` is wrong",
    ),
    "edited by hand": (
        {**PLACE, "storage": {"claimName": "shared", "runAsUser": "me"}},
        "`status.storage` of the FineTuneJob makes no sense",
        "The operator writes it anew",
    ),
}


@pytest.mark.parametrize(("status", "what", "hint"), NO_PLACE.values(), ids=NO_PLACE)
def test_no_place_for_logs(status: dict[str, Any], what: str, hint: str) -> None:
    """When the status does not tell where the logs are, it is said why."""
    with pytest.raises(SaidError) as error:
        reader_pod(item(status), [], "0a1b")
    assert what in error.value.what
    assert hint in error.value.hint
