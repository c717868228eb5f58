"""The programs that the test cluster's node runs, to be killed: Kubernetes' own, and those of pods.

Only our cluster's: nobody kills the programs of a cluster that somebody lent us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from support.cluster import NodeCluster

from running import running  # isort: skip # found by support.cluster

DAEMONS = ("kube-apiserver", "etcd", "kubelet", "containerd")


def inside(cluster: NodeCluster) -> list[str]:
    """Return the beginning of a command line that runs the rest in the mounts and the network of the cluster's node."""
    return ["nsenter", f"--target={_machine(cluster)}", "--mount", "--net", "--"]


def kill_daemon(cluster: NodeCluster, name: str) -> None:
    """Kill one of :data:`DAEMONS` with SIGKILL, once it runs. The node starts it again after a second."""
    killed = False
    while not killed:
        for process in _processes(cluster, lambda process: process.name() == name):
            process.kill()
            killed = True


def stage_programs(cluster: NodeCluster, job: str, stage: str) -> list[psutil.Process]:
    """Return the processes of a stage's program that run now, by what the node itself knows."""

    def is_one(process: psutil.Process) -> bool:
        if f"tunesmith_stages.{stage}" not in process.cmdline():
            return False
        return process.environ().get("HOSTNAME", "").startswith(f"{job}-{stage}-")

    return _processes(cluster, is_one)


@contextmanager
def held(process: psutil.Process) -> Iterator[None]:
    """Let a process stand still until the block ends, so that it cannot end meanwhile."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def servers(cluster: NodeCluster) -> list[psutil.Process]:
    """Return the processes of the Ollama server; those that answer with a model are others."""

    def is_one(process: psutil.Process) -> bool:
        command = process.cmdline()
        return command[-1:] == ["serve"] and Path(command[0]).name == "ollama"

    return _processes(cluster, is_one)


def _processes(cluster: NodeCluster, wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(_machine(cluster)).children(recursive=True):
        with suppress(psutil.Error):
            if wanted(process):
                found.append(process)
    return found


def _machine(cluster: NodeCluster) -> int:
    if cluster.ours is None:
        pytest.skip("programs of a node are killed on the cluster of `make cluster` alone")
    found = running(cluster.ours)
    assert found is not None, "the cluster is not up"
    return found
