"""The test clusters themselves: an API server without nodes, and that one with a node leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster import ApiServer, api_server, cluster_with_nodes

sys.path.append(str(Path(__file__).parents[2] / "hack" / "testcluster"))  # scripts, not a package that is installed

from layout import Layout
from load_image import load
from node import PAUSE_IMAGE
from programs import KUBERNETES, PINS, PROGRAMS, Program
from up import may_make_clusters

SCRIPTS = Path(__file__).parents[2] / "hack" / "testcluster"


def wait_until(what: str, done: Callable[[], object], seconds: float = 120) -> None:
    """Wait for something that the cluster does by itself."""
    last = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < last, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def job(name: str) -> dict[str, Any]:
    """Return a Job of two pods."""
    container = {"name": "main", "image": "localhost/none:1", "resources": {"requests": {"cpu": "10m"}}}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"parallelism": 2, "completions": 2, "completionMode": "Indexed", "template": template},
    }


@pytest.mark.parametrize(
    "program", [program for program in PROGRAMS.values() if program.module], ids=lambda it: it.name
)
def test_pins_hold_their_version(program: Program) -> None:
    """The hash of every program's module is there, of the version that go.mod names; none is taken on trust."""
    hashes = (PINS / program.name / "go.sum").read_text()
    assert f"\n{program.module} v{program.version} h1:" in hashes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Yield an API server with kwok, shared by the tests of this module."""
    with api_server(tmp_path_factory.mktemp("api") / "server", kwok=True) as running:
        yield running


# --- without nodes ---------------------------------------------------------------------------------------------------


def test_version(server: ApiServer) -> None:
    """The API server tells the version that go.mod pins, and not v0.0.0, on which clients act differently."""
    assert f'"gitVersion": "v{KUBERNETES.version}"' in server.kubectl("get", "--raw", "/version")


def test_job_runs_on_a_played_node(server: ApiServer) -> None:
    """The controllers make a Job's pods, the scheduler waits for a node, and kwok lets them succeed."""
    server.kubectl("create", "--filename=-", objects=job("two"))

    def pods() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.get("pods", "--selector=job-name=two")["items"]
        return found

    wait_until("two pods that no node has", lambda: [pod["status"]["phase"] for pod in pods()] == ["Pending"] * 2)
    server.add_nodes(1)
    wait_until("the Job has succeeded", lambda: server.get("job", "two")["status"].get("succeeded") == 2)


def test_admission(server: ApiServer) -> None:
    """Pod Security and ValidatingAdmissionPolicy refuse as on any cluster: the chart relies on both."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": labels}}
    server.kubectl("create", "--filename=-", objects=namespace)
    # Without an account it would be refused for that; the API server waits for it, but only for a second.
    wait_until("a service account", lambda: server.get("serviceaccounts", "--namespace=strict")["items"])
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any", "namespace": "strict"}}
    pod["spec"] = {"containers": [{"name": "main", "image": "localhost/none:1"}]}
    with pytest.raises(subprocess.CalledProcessError) as refused:
        server.kubectl("create", "--filename=-", objects=pod)
    assert "violates PodSecurity" in refused.value.stderr
    assert "validatingadmissionpolicies" in server.kubectl("api-resources", "--api-group=admissionregistration.k8s.io")


def test_api_server_killed(server: ApiServer) -> None:
    """After a crash of the API server everything is there again, at the same address."""
    server.kubectl("create", "configmap", "kept")
    server.kill("kube-apiserver")
    with pytest.raises(subprocess.CalledProcessError):
        server.kubectl("get", "configmap", "kept", "--request-timeout=2s")
    server.start_again("kube-apiserver")
    wait_until("clients are let in again", lambda: server.serves("configmaps"))
    assert server.get("configmap", "kept")["metadata"]["name"] == "kept"


def test_nothing_stays(tmp_path: Path) -> None:
    """When the block ends, so have all programs, and the port is free for the next server."""
    with api_server(tmp_path / "server") as running:
        pids = [process.pid for process in running.daemons.running.values()]
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert len(pids) == 4


# --- with a node -----------------------------------------------------------------------------------------------------

ROOT = pytest.mark.skipif(not may_make_clusters(), reason="only root can make the namespaces and cgroups of a cluster")


def test_given_cluster(tmp_path: Path) -> None:
    """TUNESMITH_TEST_KUBECONFIG names the cluster; a wrong path is said, and KUBECONFIG alone is not taken."""
    given = tmp_path / "kubeconfig"
    with pytest.raises(RuntimeError, match="which is not a file"):
        cluster_with_nodes({"TUNESMITH_TEST_KUBECONFIG": str(given)})
    given.touch()
    chosen = cluster_with_nodes({"TUNESMITH_TEST_KUBECONFIG": str(given), "KUBECONFIG": "/other"})
    assert (chosen.kubeconfig, chosen.ours) == (given, None)


def processes(layout: Layout) -> dict[int, list[str]]:
    """Return the command lines, by process id, in which a cluster's folder occurs."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(str(layout.state) in part for part in command):
                found[int(folder.name)] = command
    return found


def running_as(layout: Layout, program: str) -> list[int]:
    """Return the ids of the processes of a cluster that run a program."""
    return [pid for pid, command in processes(layout).items() if command[0].endswith(f"/{program}")]


def script(name: str, *arguments: str) -> str:
    """Run one of the cluster's scripts on a cluster of this test, and return what it prints."""
    command = [sys.executable, str(SCRIPTS / name), "--name", "leaves-nothing", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def traces() -> dict[str, list[str]]:
    """Return what a cluster could leave on the machine, by kind."""
    asked = {
        "links": ["ip", "-oneline", "link"],
        "routes": ["ip", "route"],
        "rules": ["iptables-save"],
        "network namespaces": ["ip", "netns", "list"],
    }
    found = {
        kind: subprocess.run(ask, check=True, capture_output=True, text=True).stdout for kind, ask in asked.items()
    }
    settings = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "net/ipv4/ip_forward")
    return {
        # Counters and times of the rules change by themselves.
        **{kind: [line for line in told.splitlines() if line[:1] not in "#:"] for kind, told in found.items()},
        "mounts": Path("/proc/self/mounts").read_text().splitlines(),
        "settings": [f"{name} {Path('/proc/sys', name).read_text()}" for name in settings],
    }


def check_made_anew(layout: Layout) -> None:
    machine = layout.machine.read_text()
    script("up.py")
    assert layout.machine.read_text() == machine, "it is left alone"
    layout.ready.write_text("other scripts")
    script("up.py")
    assert layout.machine.read_text() != machine


@ROOT
@pytest.mark.parametrize("ended", ["down", "killed"])
def test_node_cluster_leaves_nothing(ended: str) -> None:
    """A cluster with a node, also one whose machine was killed, leaves no trace, nor touches the machine's network.

    Meanwhile: what crashes in it is started again, an image that it has is not brought again, and it is made anew only
    where other scripts have made it.
    """
    before = traces()
    layout = Layout("leaves-nothing")
    try:
        script("up.py")
        answer = script("enter.py", "kubectl", "get", "--raw", "/readyz")
        assert answer == "ok"
        assert not load(layout, PAUSE_IMAGE), "an image that is there is not brought again"
        if ended == "down":
            check_made_anew(layout)
        during = traces()
        if ended == "down":
            (scheduler,) = running_as(layout, "kube-scheduler")
            os.kill(scheduler, signal.SIGKILL)
            wait_until("another scheduler runs", lambda: running_as(layout, "kube-scheduler") not in ([], [scheduler]))
        else:
            os.kill(int(layout.machine.read_text().split()[0]), signal.SIGKILL)
            wait_until("every process has ended", lambda: not processes(layout))
    finally:
        script("down.py", "--purge")
    assert during == before
    assert traces() == before
    assert processes(layout) == {}
    assert list(Path("/sys/fs/cgroup").glob(f"**{layout.cgroup}")) == []
    assert not layout.state.exists()
