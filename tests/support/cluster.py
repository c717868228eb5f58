"""Clusters for tests: a real API server without nodes, for as long as a block lasts, and the one that pods run on.

``api_server`` starts etcd, kube-apiserver, controller-manager and scheduler on loopback, as any user, with nothing
shared: for tests of what the API server and the controllers do. ``cluster_with_nodes`` returns the cluster of
``make cluster``, or the one that TUNESMITH_TEST_KUBECONFIG names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))  # scripts, not packages that are installed
sys.path.append(str(Path(__file__).parents[2] / "hack" / "testcluster"))

import control_plane
import load_image
import programs
from certificates import new_authority, sign_control_plane
from control_plane import ControlPlane
from daemons import Daemons
from layout import Layout
from node import PAUSE_IMAGE
from running import is_up, using

from support.ports import free_port

_LOOPBACK = "127.0.0.1"
_SERVICE_NETWORK = "10.97.0.0/16"
_READY_SECONDS = 180


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs, by the administrator's kubeconfig."""

    kubeconfig: Path

    def kubectl(self, *arguments: str, objects: Any = None) -> str:
        """Run kubectl and return what it prints.

        Args:
            arguments: of kubectl.
            objects: what it reads from its standard input (``--filename=-``): one object or a list of them.

        Raises:
            subprocess.CalledProcessError: it failed; `stderr` and a note say why.
        """
        command = [_kubectl(), f"--kubeconfig={self.kubeconfig}", *arguments]
        several = {"apiVersion": "v1", "kind": "List", "items": objects}
        given = None if objects is None else json.dumps(several if isinstance(objects, list) else objects)
        try:
            return subprocess.run(command, check=True, capture_output=True, text=True, input=given).stdout
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr)
            raise

    def get(self, *arguments: str) -> Any:
        """Return what ``kubectl get ARGUMENTS`` finds: one object, or a list object with `items`."""
        return json.loads(self.kubectl("get", "--output=json", *arguments))

    def serves(self, resource: str) -> bool:
        """Tell whether the API server serves a resource, as ``finetunejobs``: not at once when its definition is new.

        ``kubectl wait --for=condition=Established`` fails on a definition so new that it has no conditions at all.
        """
        try:
            self.kubectl("get", resource, "--all-namespaces")
        except subprocess.CalledProcessError:
            return False
        return True


# --- without nodes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ApiServer(Cluster):
    """An API server of our own; `daemons` are its programs, by name as ``kube-apiserver``."""

    plane: ControlPlane
    daemons: Daemons

    @property
    def url(self) -> str:
        """Address of the API server."""
        return self.plane.url

    def kill(self, name: str) -> None:
        """End a program at once, as a crash would."""
        self.daemons.kill(name)

    def start_again(self, name: str) -> None:
        """Start a program that was killed, and wait until the API server serves."""
        self.daemons.start(self.daemons.known[name])
        self._wait_until_ready()

    def add_nodes(self, count: int, *, gpus: int = 8) -> None:
        """Add nodes that kwok plays: pods on them run at once, those of a Job succeed at once."""
        self.kubectl("apply", "--filename=-", objects=[_played_node(f"played{i}", gpus) for i in range(count)])

    def _wait_until_ready(self) -> None:
        self.daemons.wait_for(
            "API server", "kube-apiserver", _READY_SECONDS, lambda: control_plane.is_ready(self.plane)
        )


@contextmanager
def api_server(folder: Path, *, kwok: bool = False) -> Iterator[ApiServer]:
    """Run an API server with the controllers and the scheduler until the block ends.

    Args:
        folder: new; takes data, certificates, kubeconfigs, and in ``logs`` what the programs say.
        kwok: also run kwok, which plays the nodes of :meth:`ApiServer.add_nodes`.

    Raises:
        StageError: a program cannot be built.
        DaemonError: one of them failed.
    """
    for program in (programs.KUBERNETES, programs.ETCD, *([programs.KWOK] if kwok else [])):
        programs.ensure(program)
    (folder / "logs").mkdir(parents=True)
    authority = new_authority(folder / "certificates")
    sign_control_plane(authority, [_LOOPBACK])
    plane = ControlPlane(folder, authority, _LOOPBACK, free_port(), (free_port(), free_port()), _SERVICE_NETWORK)
    plane.write_kubeconfigs("admin", "controller-manager", "scheduler")
    server = ApiServer(plane.kubeconfig_of("admin"), plane, Daemons(folder / "logs"))
    try:
        server.daemons.start(control_plane.etcd(plane))
        server.daemons.start(control_plane.api_server(plane, node=False))
        server._wait_until_ready()
        server.daemons.start(control_plane.controller_manager(plane))
        server.daemons.start(control_plane.scheduler(plane))
        if kwok:
            server.daemons.start(control_plane.kwok(plane))
        server.daemons.wait_for(
            "service accounts",
            "kube-controller-manager",
            _READY_SECONDS,
            lambda: control_plane.has_service_accounts(plane),
        )
        yield server
    finally:
        server.daemons.kill()


def _played_node(name: str, gpus: int) -> dict[str, Any]:
    room = {"cpu": "128", "memory": "512Gi", "pods": "2000", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
        },
        "status": {"allocatable": room, "capacity": room},
    }


# --- with nodes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NodeCluster(Cluster):
    """A cluster that runs pods. `ours` is the layout of ``make cluster``'s; none if somebody else gave it."""

    ours: Layout | None

    def bring(self, images: Sequence[str]) -> None:
        """Have the cluster know these images of buildah's storage. A given cluster must know them already."""
        if self.ours:
            for image in (PAUSE_IMAGE, *images):
                load_image.load(self.ours, image)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let no other run of these tests use our cluster meanwhile: what they install there has fixed names."""
        with using(self.ours) if self.ours else nullcontext():
            yield


def cluster_with_nodes(environ: Mapping[str, str] | None = None) -> NodeCluster:
    """Return the cluster that the end-to-end tests use: the one that TUNESMITH_TEST_KUBECONFIG names, else ours.

    KUBECONFIG itself is not looked at: no test shall meet the cluster that somebody works with.

    Raises:
        RuntimeError: there is none.
    """
    environ = os.environ if environ is None else environ
    if given := environ.get("TUNESMITH_TEST_KUBECONFIG"):
        if not Path(given).is_file():
            raise RuntimeError(f"TUNESMITH_TEST_KUBECONFIG names {given}, which is not a file")
        return NodeCluster(Path(given), None)
    layout = Layout()
    if not is_up(layout):
        raise RuntimeError("no test cluster is up: run `make cluster`, or set TUNESMITH_TEST_KUBECONFIG")
    return NodeCluster(layout.kubeconfig, layout)


def _kubectl() -> str:
    """Return the pinned kubectl, or where it is not built the one on PATH."""
    built = programs.kubernetes("kubectl")
    return str(built) if built.exists() else shutil.which("kubectl") or "kubectl"
