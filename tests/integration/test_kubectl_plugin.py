"""`kubectl tunesmith` with the real kubectl and a real API server: found, connected, refused, watched, cleaned up.

There is no node that runs anything, so no log can be read here: what pods print is tested by `tests/unit/cli/kubectl`
and on a whole cluster by `tests/e2e/cluster`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.builders import job_data
from support.chart import ROOT, Done, add_namespaces, wait_until
from support.cluster import ApiServer, api_server
from tunesmith.api.crd import custom_resource_definition
from unit.cli.kubectl.items import DIGEST, job_name, ready, stage

import programs  # isort: skip # found by support.cluster

_SECONDS = 180
OURS, THEIRS, EMPTY = "team-a", "team-b", "team-c"
CLAIM = "shared"
PLACE = {"image": "stages:1", "storage": {"claimName": CLAIM, "runAsUser": 2000, "supplementalGroups": [4000]}}


def standing(reason: str, message: str = "", **ended: bool) -> dict[str, Any]:
    """Return a status of a job that was never edited."""
    return {**ready(reason, message, **ended), "observedGeneration": 1}


@dataclass(frozen=True)
class User:
    """Somebody at a shell, with kubectl and the plugin on PATH."""

    server: ApiServer
    environ: Mapping[str, str]

    def run(self, *arguments: str) -> Done:
        """Run ``kubectl tunesmith ARGUMENTS`` to its end."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=_SECONDS)
        return Done(process.returncode, out, err)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``kubectl tunesmith ARGUMENTS``."""
        return subprocess.Popen(
            ["kubectl", "tunesmith", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(self.environ),
        )

    def but(self, **environ: str) -> User:
        """Return the same user with other variables."""
        return User(self.server, {**self.environ, **environ})

    def put(self, name: str, status: Mapping[str, Any] | None = None, namespace: str = OURS) -> None:
        """Create a FineTuneJob, and write its status as the operator would."""
        data = job_data({"metadata": {"name": name, "namespace": namespace}})
        self.server.kubectl("apply", "--filename=-", objects=data)
        if status is not None:
            self.write(name, status, namespace)

    def write(self, name: str, status: Mapping[str, Any], namespace: str = OURS) -> None:
        """Write a status."""
        patch = f"--patch={json.dumps({'status': status})}"
        self.server.kubectl(
            "patch", "ftj", name, f"--namespace={namespace}", "--subresource=status", "--type=merge", patch
        )

    def readers(self) -> list[dict[str, Any]]:
        """Return the pods that read logs now."""
        found = self.server.get("pods", f"--namespace={OURS}", "--selector=app.kubernetes.io/component=logs")
        return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Yield a user of an API server that nothing is installed on."""
    with api_server(tmp_path_factory.mktemp("plugin") / "server", kwok=True) as server:
        yield User(server, environ_with_plugin(tmp_path_factory.mktemp("bin"), server))


@pytest.fixture(scope="module")
def without_crd(bare: User) -> Done:
    """Return what the plugin said before the CRD was there."""
    return bare.run("status", "bot")


@pytest.fixture(scope="module")
def user(bare: User, without_crd: Done) -> User:
    """Return a user of a cluster with Tunesmith's CRD, teams that must use restricted pods, and a claim."""
    assert without_crd.code
    add_namespaces(bare.server, OURS, THEIRS, EMPTY)
    bare.server.kubectl("apply", "--server-side", "--filename=-", objects=custom_resource_definition())
    wait_until("FineTuneJobs are served", lambda: bare.run("status", "bot").err.startswith("✗ There is no"))
    wait_until("pods can be made", lambda: bare.server.get("serviceaccounts", "-n", OURS)["items"])
    return bare


def environ_with_plugin(folder: Path, server: ApiServer) -> dict[str, str]:
    """Return an environment in which kubectl is on PATH, and the plugin as pip would install it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for name, entry in declared.items():
        module, _, function = entry.partition(":")
        script = f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        (folder / name).write_text(script, encoding="utf-8")
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), str(programs.kubernetes("kubectl").parent), os.defpath])
    return {"PATH": path, "HOME": str(folder), "KUBECONFIG": str(server.kubeconfig), "LANG": "C.UTF-8"}


def account(user: User, name: str, folder: Path, *rules: str) -> User:
    """Return a user with a few rights in the team's namespace; a rule is ``verbs resources``."""
    kubectl = user.server.kubectl
    kubectl("create", "serviceaccount", name, f"--namespace={OURS}")
    for index, (verbs, resources) in enumerate(rule.split() for rule in rules):
        role = f"{name}-{index}"
        kubectl("create", "role", role, f"--verb={verbs}", f"--resource={resources}", f"--namespace={OURS}")
        bound = f"--serviceaccount={OURS}:{name}"
        kubectl("create", "rolebinding", role, f"--role={role}", bound, f"--namespace={OURS}")
    token = kubectl("create", "token", name, f"--namespace={OURS}").strip()
    authority = str(user.server.plane.authority.certificate)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "team",
        "contexts": [{"name": "team", "context": {"cluster": "ours", "user": name, "namespace": OURS}}],
        "clusters": [{"name": "ours", "cluster": {"server": user.server.url, "certificate-authority": authority}}],
        "users": [{"name": name, "user": {"token": token}}],
    }
    file = folder / "kubeconfig"
    file.write_text(json.dumps(config), encoding="utf-8")
    return user.but(KUBECONFIG=str(file))


# --- found -----------------------------------------------------------------------------------------------------------


def test_kubectl_finds_it(user: User) -> None:
    """Kubectl knows the plugin by its program's name, and its help tells how it is called."""
    listed = subprocess.run(
        ["kubectl", "plugin", "list"], env=dict(user.environ), capture_output=True, text=True, check=True
    )
    assert "kubectl-tunesmith" in listed.stdout
    done = user.run("--help")
    assert done.code == 0
    assert "Usage: kubectl tunesmith" in done.out
    assert all(command in done.out for command in ("status", "watch", "logs"))


# --- status ----------------------------------------------------------------------------------------------------------

SUCCEEDED = {
    **standing("Succeeded", "the model answers as bot:v1 in Ollama (main)", done=True),
    **PLACE,
    "stages": [
        stage("fetch", "Succeeded", 1, startTime="2026-05-04T11:00:00Z", completionTime="2026-05-04T11:01:05Z"),
        stage("train", "Succeeded", cached=True),
    ],
    "artifacts": [{"name": "Q8_0", "path": "stages/q/out/model.gguf", "digest": DIGEST, "bytes": 5, "model": "bot:v1"}],
    "ollama": [{"server": "main", "models": ["bot:v1"]}],
    "sources": [{"name": "base", "version": "v1", "spec": DIGEST}],
}


def test_status(user: User) -> None:
    """What the operator wrote is told to people, line by line, and nothing is on standard error."""
    user.put("done", SUCCEEDED)
    done = user.run("status", "done", "-n", OURS)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["done", "in", "namespace", f"{OURS}:", "Succeeded"]
    assert ["fetch", "Succeeded", "1", "1m05s"] in lines
    assert ["train", "Succeeded", "yes"] in lines
    assert ["Q8_0", "5", "B", "bot:v1", "stages/q/out/model.gguf"] in lines
    assert ["main", "bot:v1"] in lines
    assert ["base", "volume", "models/base", "v1"] in lines


def test_status_of_a_new_job(user: User) -> None:
    """A job that no operator has seen is shown, with what to check."""
    user.put("new")
    done = user.run("status", "new", "-n", OURS)
    assert done.code == 0
    assert "Unseen" in done.out
    assert "does the operator run" in done.out


def test_status_as_json(user: User) -> None:
    """Programs get the same as JSON, and nothing else on standard output."""
    user.put("json", SUCCEEDED)
    done = user.run("status", "json", "--namespace", OURS, "--output", "json")
    data = json.loads(done.out)
    assert (done.code, data["ready"], data["reason"]) == (0, True, "Succeeded")
    assert [item["name"] for item in data["stages"]] == ["fetch", "train"]
    assert data["artifacts"][0]["model"] == "bot:v1"


def test_nobody_reads(user: User) -> None:
    """When the reader of the output has gone the program ends as others do, without a word."""
    user.put("unread", SUCCEEDED)
    for arguments in (["status", "unread", "-o", "json"], ["status", "unread"]):
        process = user.start(*arguments, "-n", OURS)
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        with process.stderr as err:
            assert err.read() == ""
        assert process.wait(_SECONDS) == 128 + signal.SIGPIPE


def test_namespaces(user: User, tmp_path: Path) -> None:
    """The namespace is the option's, before or after the verb, else the context's, else `default`."""
    user.put("where", standing("Training"), THEIRS)
    assert user.run("status", "where", "-n", THEIRS).code == 0
    assert user.run("-n", THEIRS, "status", "where").code == 0
    assert "in namespace default" in user.run("status", "where").err
    config = json.loads(user.server.kubectl("config", "view", "--raw", "--output=json"))
    config["contexts"].append({"name": "theirs", "context": {**config["contexts"][0]["context"], "namespace": THEIRS}})
    file = tmp_path / "config"
    file.write_text(json.dumps(config), encoding="utf-8")
    assert user.run("status", "where", "--kubeconfig", str(file), "--context", "theirs").code == 0
    assert user.but(KUBECONFIG=f"/nowhere{os.pathsep}{file}").run("status", "where", "--context", "theirs").code == 0


# --- not found, not allowed ------------------------------------------------------------------------------------------


def test_without_the_crd(without_crd: Done) -> None:
    """A cluster without Tunesmith says so, and not that a job is missing."""
    assert without_crd.code == 1
    assert "Tunesmith's CRD is not installed" in without_crd.err
    assert "Helm chart" in without_crd.err


MISSING = {
    "a name that was mistyped": (["status", "suport-bot", "-n", OURS], "Did you mean support-bot? There are: "),
    "a namespace that was forgotten": (
        ["watch", "only-theirs", "-n", OURS],
        f"in namespace {THEIRS}: add `-n {THEIRS}`",
    ),
    "a namespace without jobs": (["logs", "nothing-like-it", "-n", EMPTY], "There are none at all"),
    "a namespace that is not there": (["status", "nothing-like-it", "-n", "nowhere"], "There are none at all"),
}


@pytest.mark.parametrize(("arguments", "hint"), MISSING.values(), ids=MISSING)
def test_missing(user: User, arguments: list[str], hint: str) -> None:
    """A job that is not there is named, with what may have been meant."""
    user.put("support-bot")
    user.put("only-theirs", namespace=THEIRS)
    done = user.run(*arguments)
    assert (done.code, done.out) == (1, "")
    assert f"There is no FineTuneJob '{arguments[1]}' in namespace {arguments[-1]}." in done.err
    assert hint in done.err


FORBIDDEN: dict[str, tuple[tuple[str, ...], list[str], str]] = {
    "nothing": ((), ["status", "allowed"], f"You may not do this in namespace {OURS}: finetunejobs"),
    "get, but not list": (("get finetunejobs.tunesmith.dev",), ["status", "missing"], "you may not list"),
    "get, but not watch": (("get finetunejobs.tunesmith.dev",), ["watch", "allowed"], "cannot watch resource"),
    "no pods": (("get finetunejobs.tunesmith.dev",), ["logs", "allowed"], 'cannot list resource "pods"'),
    "no new pods": (
        ("get finetunejobs.tunesmith.dev", "get,list pods"),
        ["logs", "allowed"],
        "It needs: create, get and delete on pods, and get on pods/log.",
    ),
}


@pytest.mark.parametrize(("rules", "arguments", "said"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_forbidden(user: User, tmp_path: Path, rules: tuple[str, ...], arguments: list[str], said: str) -> None:
    """Who lacks a right is told which one, in the words of the API server, and what to ask for."""
    user.put("allowed", {**standing("Training"), **PLACE, "stages": [stage("train", "Succeeded", 1)]})
    name = f"u-{abs(hash(rules + tuple(arguments))) % 10**8}"
    done = account(user, name, tmp_path, *rules).run(*arguments)
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.err


def test_token_that_is_not_known(user: User, tmp_path: Path) -> None:
    """Who is not known to the cluster is told to log in."""
    stranger = account(user, "stranger", tmp_path)
    file = tmp_path / "kubeconfig"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["users"][0]["user"]["token"] = "no-token-of-this-cluster"  # noqa: S105
    file.write_text(json.dumps(config), encoding="utf-8")
    done = stranger.run("status", "bot")
    assert done.code == 1
    assert "does not know you" in done.err


# --- watch -----------------------------------------------------------------------------------------------------------


class Watching:
    """`kubectl tunesmith watch` of a job, line by line."""

    def __init__(self, user: User, name: str) -> None:
        self.process = user.start("watch", name, "-n", OURS)
        assert self.process.stdout
        self._out = self.process.stdout

    def until(self, text: str) -> str:
        """Return the next line that has a text in it."""
        for line in self._out:
            if text in line:
                return line
        raise AssertionError(f"it ended without {text!r}: {self.process.communicate()[1]}")

    def end(self) -> Done:
        """Return what it came to."""
        out, err = self.process.communicate(timeout=_SECONDS)
        return Done(self.process.returncode, out, err)


@pytest.fixture
def watch(user: User) -> Iterator[Any]:
    """Yield what begins to watch a job that trains; whatever still runs at the end is ended."""
    begun: list[Watching] = []

    def begin(name: str, *, there: bool = False) -> Watching:
        if not there:
            user.put(name, standing("Training", "train runs"))
        begun.append(Watching(user, name))
        begun[-1].until("Unseen" if there else "Training: train runs")
        return begun[-1]

    yield begin
    for watching in begun:
        watching.process.kill()
        watching.process.communicate()


ENDS = {
    "ready": (standing("Succeeded", "it answers", done=True), 0, "Succeeded: it answers"),
    "stalled": (standing("OutOfMemory", "no memory", stalled=True), 1, "OutOfMemory: no memory"),
    "invalid": (standing("InvalidSpec", "a field is wrong", stalled=True), 1, "InvalidSpec: a field is wrong"),
}


@pytest.mark.parametrize(("status", "code", "line"), ENDS.values(), ids=ENDS)
def test_watch(user: User, watch: Any, status: dict[str, Any], code: int, line: str) -> None:
    """A line comes for each change; it ends when the job is ready, with 0, or when somebody must act, with 1."""
    name = f"watch-{line.partition(':')[0].lower()}"
    watching = watch(name)
    user.write(name, {**standing("Training"), "progress": {"stage": "train", "text": "37 %"}})
    watching.until("Training: train 37 %")
    user.write(name, {**status, "progress": None})
    done = watching.end()
    assert (done.code, done.err) == (code, "")
    (last,) = done.out.splitlines()
    assert last.endswith(line)


def test_watch_of_what_is_done(user: User) -> None:
    """A job that is done already ends it at once."""
    user.put("over", SUCCEEDED)
    done = user.run("watch", "over", "-n", OURS)
    assert done.code == 0
    assert len(done.out.splitlines()) == 1


def test_watch_after_an_edit(user: User, watch: Any) -> None:
    """What the status says of an earlier version of the spec ends nothing."""
    user.put("edited", SUCCEEDED)
    merge = ("--type=merge", '--patch={"spec":{"suspend":true}}')
    user.server.kubectl("patch", "ftj", "edited", f"--namespace={OURS}", *merge)
    watching = watch("edited", there=True)
    user.write("edited", {**standing("OutOfMemory", "no memory", stalled=True), "observedGeneration": 2})
    assert watching.end().code == 1


def test_watch_of_what_is_deleted(user: User, watch: Any) -> None:
    """A job that is deleted meanwhile is no success."""
    watching = watch("deleted")
    user.server.kubectl("delete", "ftj", "deleted", f"--namespace={OURS}")
    done = watching.end()
    assert done.code == 1
    assert "FineTuneJob deleted was deleted." in done.err


SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_watch_is_ended(watch: Any, number: signal.Signals, code: int) -> None:
    """Ctrl-C, and whatever else ends a program, ends it at once and without a traceback."""
    watching = watch(f"ended-{number}")
    watching.process.send_signal(number)
    done = watching.end()
    assert (done.code, done.err) == (code, "")


def test_watch_while_the_api_server_is_away(user: User, watch: Any) -> None:
    """An API server that is restarted is said to be away, and then watched again; what changed meanwhile is seen."""
    watching = watch("patient")
    user.server.kill("kube-apiserver")
    try:
        watching.until("the API server is away")
    finally:
        user.server.start_again("kube-apiserver")
    user.write("patient", standing("Succeeded", "it answers", done=True))
    done = watching.end()
    assert done.code == 0
    assert done.out.splitlines()[-1].endswith("Succeeded: it answers")


# --- logs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(user: User) -> Iterator[str]:
    """Yield a job whose training has ended and left no pod; in the end no pod that reads logs is left."""
    stages = [stage("train", "Failed", 1)]
    user.put("ended", {**standing("OutOfMemory", stalled=True), **PLACE, "stages": stages})
    yield "ended"
    wait_until("no reader is left", lambda: user.readers() == [])


@dataclass(frozen=True)
class Reading:
    """`kubectl tunesmith logs`, and the pod that it made, which waits for a node."""

    process: subprocess.Popen[str]
    pod: dict[str, Any]

    def end(self, number: signal.Signals | None = None) -> Done:
        """Return what it comes to, after a signal if there is one."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=_SECONDS)
        return Done(self.process.returncode, out, err)


@pytest.fixture
def reading(user: User, ended: str) -> Iterator[Reading]:
    """Yield what reads the log of a job whose pods are gone."""
    with user.start("logs", ended, "-n", OURS) as process:
        try:
            wait_until("a pod reads logs", lambda: user.readers() or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            (pod,) = user.readers()
            yield Reading(process, pod)
        finally:
            process.terminate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_reader_is_removed(user: User, reading: Reading, number: signal.Signals) -> None:
    """The pod that reads logs is said to wait, and why; Ctrl-C removes it."""
    name = reading.pod["metadata"]["name"]
    assert reading.process.stderr
    assert "from the volume" in reading.process.stderr.readline()
    assert reading.process.stderr.readline().startswith(f"Pod {name} waits: Unschedulable: ")
    done = reading.end(number)
    assert (done.code, done.out) == (SIGNALS[number], "")
    wait_until("the pod is gone", lambda: user.readers() == [], seconds=5)


def test_reader_fits_the_namespace(user: User, ended: str, reading: Reading) -> None:
    """The pod is taken where restricted pods are enforced; it runs as the stages' user, and goes with its job."""
    spec = reading.pod["spec"]
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["supplementalGroups"]) == (2000, [4000])
    assert spec["containers"][0]["args"][-4:] == ["--attempt", job_name("train", 1), "--stage", "train"]
    job = user.server.get("ftj", ended, f"--namespace={OURS}")
    assert [owner["uid"] for owner in reading.pod["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]


def test_reader_that_is_deleted(user: User, reading: Reading) -> None:
    """When somebody else deletes the pod, that is told."""
    name = reading.pod["metadata"]["name"]
    user.server.kubectl("delete", "pod", name, f"--namespace={OURS}")
    done = reading.end()
    assert done.code == 1
    assert f"Pod {name} was deleted before it had read the logs." in done.err


def test_reader_while_the_api_server_is_away(user: User, reading: Reading) -> None:
    """A pod is not forgotten because the API server was away for a moment."""
    user.server.kill("kube-apiserver")
    user.server.start_again("kube-apiserver")
    assert reading.process.poll() is None
    assert reading.end(signal.SIGINT).code == SIGNALS[signal.SIGINT]


def test_reader_whose_node_does_not_answer(user: User, ended: str) -> None:
    """When the log of the reading pod cannot be had, that is told, and the pod is removed."""
    user.server.add_nodes(1)
    user.server.kubectl("apply", "--filename=-", objects=_volume())
    user.server.kubectl(
        "wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{CLAIM}", f"--namespace={OURS}", "--timeout=120s"
    )
    try:
        done = user.run("logs", ended, "-n", OURS)
    finally:
        user.server.kubectl("delete", "node", "--all")
        user.server.kubectl("delete", "pvc", CLAIM, f"--namespace={OURS}", "--wait=false")
        user.server.kubectl("delete", "pv", CLAIM, "--wait=false")
    assert (done.code, done.out) == (1, "")
    assert "The API server refuses: 5" in done.err


def _volume() -> list[dict[str, Any]]:
    """Return a claim of the team's, and the volume that it gets."""
    size = {"storage": "1Gi"}
    claim = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "volumeName": CLAIM,
        "resources": {"requests": size},
    }
    volume = {"accessModes": ["ReadWriteMany"], "capacity": size, "hostPath": {"path": "/nowhere"}}
    metadata = {"name": CLAIM, "namespace": OURS}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": CLAIM}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim},
    ]


REFUSED_READERS: dict[str, tuple[dict[str, Any], str]] = {
    "a quota": (
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}},
        "exceeded quota",
    ),
}


@pytest.mark.parametrize(("refusal", "said"), REFUSED_READERS.values(), ids=REFUSED_READERS)
def test_reader_that_is_refused(user: User, ended: str, refusal: dict[str, Any], said: str) -> None:
    """When the namespace takes no further pod, that is told, and what the pod is for."""
    user.server.kubectl("create", f"--namespace={OURS}", "--filename=-", objects=refusal)
    try:
        wait_until("the quota counts", lambda: user.server.get("quota", "q", "-n", OURS).get("status", {}).get("hard"))
        done = user.run("logs", ended, "-n", OURS)
    finally:
        user.server.kubectl("delete", "quota", "q", f"--namespace={OURS}")
    assert done.code == 1
    assert said in done.err
    assert "printed by a short-lived pod" in done.err


def test_logs_of_a_job_that_has_none(user: User) -> None:
    """Before anything has run there is no log, and no pod is made to look for one."""
    user.put("fresh", standing("Pending", "fetch comes next"))
    done = user.run("logs", "fresh", "-n", OURS)
    assert done.code == 1
    assert "No stage has run for this FineTuneJob." in done.err
    done = user.run("logs", "fresh", "-n", OURS, "--list")
    assert done.code == 1
    assert "The operator has started nothing for it: Pending: fetch comes next" in done.err
    assert user.readers() == []
