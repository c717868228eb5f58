"""The test cluster's machine: the first process of its namespaces, which makes them a node and keeps it running.

    machine.py NAME DESCRIPTOR

``up.py`` starts it with network, mounts and process numbers of its own. All else are its children, so when it ends,
however it ends, Linux ends every process of the cluster and takes away its mounts and its network. DESCRIPTOR is a
socket that listens outside, for the API server.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Never

import control_plane
import node
from certificates import new_authority, sign_control_plane
from cgroups import make_cgroup
from control_plane import ControlPlane
from daemons import DaemonError, Daemons
from layout import API_PORT, API_SERVICE, BRIDGE, GATEWAY, NODE, POD_NETWORK, SERVICE_NETWORK, Layout, scripts_digest
from programs import kubernetes

_PRIVATE = ("/run", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")
"""Folders that the programs write to and that cannot be set."""
_KUBELET_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What the kubelet sets for the whole machine; here it sets copies."""
_PATIENCE = 180.0
"""Seconds after which what takes one or two counts as failed, on a busy machine with a slow disk too."""
_RESTART_SECONDS = 1.0
_ETCD_PORTS = (2379, 2380)
_COREDNS_RIGHTS = Path(__file__).with_name("coredns.yaml")


class Stopped(BaseException):
    """Somebody asked the machine to stop."""


def main() -> int:
    """Be the cluster until a SIGTERM."""
    layout, listener = Layout(sys.argv[1]), int(sys.argv[2])
    daemons, begun = Daemons(layout.logs), time.monotonic()
    signal.signal(signal.SIGTERM, _stop)
    try:
        try:
            for step in _start(layout, listener, daemons):
                print(f"{time.monotonic() - begun:5.1f} s  {step}", flush=True)
        except (DaemonError, subprocess.CalledProcessError) as error:
            print(_told(error), flush=True)
            return 1
        layout.ready.write_text(scripts_digest(), encoding="utf-8")
        _keep(daemons)
    except Stopped:
        _remove_containers(layout, daemons)
    return 0


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped


def _told(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"`{' '.join(map(str, error.cmd))}` failed:\n{error.stderr}"
    return str(error)


# --- up --------------------------------------------------------------------------------------------------------------


def _start(layout: Layout, listener: int, daemons: Daemons) -> Iterator[str]:
    """Bring the cluster up; tells each step that is done."""
    _mount_private_folders()
    _make_network()
    make_cgroup(layout.cgroup)
    plane = _new_control_plane(layout, listener)
    yield "network and certificates"
    daemons.start(control_plane.etcd(plane))
    daemons.start(node.containerd(layout))
    daemons.start(control_plane.api_server(plane, node=True))
    daemons.start(node.api_forwarder(listener, plane))
    daemons.wait_for("API server", "kube-apiserver", _PATIENCE, lambda: control_plane.is_ready(plane))
    yield "API server"
    daemons.start(control_plane.controller_manager(plane))
    daemons.start(control_plane.scheduler(plane))
    daemons.wait_for("containerd", "containerd", _PATIENCE, layout.containerd_socket.exists)
    daemons.start(node.kubelet(layout, plane))
    daemons.start(node.kube_proxy(layout, plane))
    _run(kubernetes("kubectl"), f"--kubeconfig={layout.inner_kubeconfig}", "apply", f"--filename={_COREDNS_RIGHTS}")
    daemons.start(node.coredns(layout, plane))
    daemons.wait_for("ready node", "kubelet", _PATIENCE, lambda: _node_is_ready(plane))
    yield "node"
    daemons.wait_for("DNS", "coredns", _PATIENCE, lambda: _answers(node.DNS_HEALTH))
    daemons.wait_for(
        "service accounts", "kube-controller-manager", _PATIENCE, lambda: control_plane.has_service_accounts(plane)
    )
    through_service = replace(plane, address=API_SERVICE, api_port=443)
    daemons.wait_for("service addresses", "kube-proxy", _PATIENCE, lambda: control_plane.is_ready(through_service))
    yield "DNS, service accounts, service addresses"


def _mount_private_folders() -> None:
    """Give the programs folders and machine-wide settings of their own, seen by nobody else."""
    for folder in _PRIVATE:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    copies = Path("/run/sys")
    for setting in _KUBELET_SETTINGS:
        copy = copies / setting
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(Path("/proc/sys", setting).read_bytes())
        _run("mount", "--bind", str(copy), f"/proc/sys/{setting}")


def _make_network() -> None:
    """Make the one bridge that node, pods and services are on; nothing leads out of it."""
    size = POD_NETWORK.rpartition("/")[2]
    for change in (
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"address add {GATEWAY}/{size} dev {BRIDGE}",
        f"link set {BRIDGE} up",
        f"route add {SERVICE_NETWORK} dev {BRIDGE}",  # without any route a service's address is refused before its NAT
    ):
        _run("ip", *change.split())
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="utf-8")


def _new_control_plane(layout: Layout, listener: int) -> ControlPlane:
    authority = new_authority(layout.certificates)
    sign_control_plane(authority, ["127.0.0.1", GATEWAY, API_SERVICE])
    plane = ControlPlane(layout.live, authority, GATEWAY, API_PORT, _ETCD_PORTS, SERVICE_NETWORK)
    plane.write_kubeconfigs("admin", "controller-manager", "scheduler")
    node.sign_node(plane)
    with socket.socket(fileno=os.dup(listener)) as outside:
        authority.kubeconfig(layout.kubeconfig, f"https://127.0.0.1:{outside.getsockname()[1]}", "admin")
    return plane


def _node_is_ready(plane: ControlPlane) -> bool:
    told = control_plane.ask(plane, f"/api/v1/nodes/{NODE}") or {}
    conditions = {condition["type"]: condition["status"] for condition in told.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - our own server
            return bool(answer.status == 200)
    except OSError:
        return False


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


# --- meanwhile, and down ---------------------------------------------------------------------------------------------


def _keep(daemons: Daemons) -> Never:
    """Start again what ends, and clear away the orphans that Linux gives to the first process."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if daemon := daemons.named(pid):
            print(f"{daemon.name} ended ({os.waitstatus_to_exitcode(status)}); starting it again", flush=True)
            time.sleep(_RESTART_SECONDS)
            daemons.start(daemon)


def _remove_containers(layout: Layout, daemons: Daemons) -> None:
    """Remove the pods' containers from containerd's books, which are kept for the images in them."""
    daemons.kill(*(name for name in daemons.running if name != "containerd"))
    ctr = ["ctr", f"--address={layout.containerd_socket}", "--namespace=k8s.io"]
    for kind, removal in (("tasks", ["tasks", "rm", "--force"]), ("containers", ["containers", "rm"])):
        listed = subprocess.run([*ctr, kind, "ls", "--quiet"], check=False, capture_output=True, text=True)
        if names := listed.stdout.split():
            subprocess.run([*ctr, *removal, *names], check=False, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
