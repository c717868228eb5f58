"""The programs of the cluster's one node and their configuration: containerd, kubelet, kube-proxy, CoreDNS."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from control_plane import ControlPlane
from daemons import Daemon
from layout import BRIDGE, GATEWAY, NODE, POD_NETWORK, Layout
from programs import COREDNS, kubernetes

PAUSE_IMAGE = "localhost/tunesmith-pause:1"
DNS_HEALTH = "http://127.0.0.1:8088/health"
_NO_ADJUSTMENT = 0  # of the out-of-memory score: not every machine lets root lower it
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
_UNUSED_PLUGINS = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
]


def sign_node(plane: ControlPlane) -> None:
    """Sign what the node's programs need, and write their kubeconfigs."""
    authority = plane.authority
    authority.sign("kubelet-server", f"/CN={NODE}", [f"DNS:{NODE}", f"IP:{GATEWAY}"])
    authority.sign("kubelet", f"/O=system:nodes/CN=system:node:{NODE}")
    authority.sign("kube-proxy", "/CN=system:kube-proxy")
    authority.sign("coredns", "/CN=tunesmith-test:coredns")
    plane.write_kubeconfigs("kubelet", "kube-proxy", "coredns")


# --- containers ------------------------------------------------------------------------------------------------------


NETWORK_PLUGINS = "containernetworking-plugins"
"""Debian package of the network plugins for containers."""


def cni_folder() -> Path | None:
    """Return the folder with the network plugins for containers, if one is installed."""
    return next((folder for folder in _CNI_FOLDERS if (folder / "bridge").is_file()), None)


def containerd(layout: Layout) -> Daemon:
    """Write containerd's configuration and return it."""
    networks = layout.live / "cni"
    networks.mkdir()
    ranges = [[{"subnet": POD_NETWORK, "gateway": GATEWAY}]]
    addresses = {"type": "host-local", "dataDir": str(networks / "addresses"), "ranges": ranges}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isDefaultGateway": True, "hairpinMode": True, "ipam": addresses}
    _write_json(networks / "10-pods.conflist", {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]})
    _write_json(networks / "99-loopback.conf", {"cniVersion": "0.4.0", "name": "loopback", "type": "loopback"})
    config = layout.live / "containerd.toml"
    config.write_text(_containerd_config(layout, networks), encoding="utf-8")
    return Daemon("containerd", (shutil.which("containerd") or "containerd", f"--config={config}"))


def _containerd_config(layout: Layout, networks: Path) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    sections: dict[str, dict[str, Any]] = {
        "": {
            "version": 2,
            "root": str(layout.images),
            "state": str(layout.live / "containerd"),
            "oom_score": _NO_ADJUSTMENT,
            "disabled_plugins": _UNUSED_PLUGINS,
        },
        "grpc": {"address": str(layout.containerd_socket)},
        'plugins."io.containerd.internal.v1.opt"': {"path": str(layout.live / "opt")},
        cri: {
            "sandbox_image": PAUSE_IMAGE,
            "restrict_oom_score_adj": True,
            "tolerate_missing_hugetlb_controller": True,
            "disable_apparmor": True,
            "stream_server_address": "127.0.0.1",
            "stream_server_port": "0",
        },
        f"{cri}.cni": {"bin_dir": str(cni_folder()), "conf_dir": str(networks)},
        f"{cri}.containerd": {"snapshotter": "overlayfs", "default_runtime_name": "runc"},
        f"{cri}.containerd.runtimes.runc": {"runtime_type": "io.containerd.runc.v2"},
        f"{cri}.containerd.runtimes.runc.options": {"SystemdCgroup": False, "BinaryName": shutil.which("runc") or ""},
    }
    lines = []
    for name, settings in sections.items():
        lines += [f"[{name}]"] if name else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


# --- kubelet ---------------------------------------------------------------------------------------------------------


def kubelet(layout: Layout, plane: ControlPlane) -> Daemon:
    """Write the kubelet's configuration and return it."""
    authority = plane.authority
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": layout.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": _NO_ADJUSTMENT,
        "enforceNodeAllocatable": [],
        "address": GATEWAY,
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "tlsCertFile": str(authority.certificate_of("kubelet-server")),
        "tlsPrivateKeyFile": str(authority.key_of("kubelet-server")),
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(authority.certificate)}},
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [GATEWAY],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "maxPods": 200,
        "serializeImagePulls": False,
        # A full disk must not make the kubelet remove images, which cannot be pulled again (load_image.py brings them),
        # nor end pods: what runs out of room fails with its own message. Nor must memory: the kubelet takes files that
        # were read more than once for memory in use, and of those there are gigabytes after some tests.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "0%"},
        "kubeAPIQPS": 500,
        "kubeAPIBurst": 1000,
        "eventRecordQPS": 0,
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "volumePluginDir": str(layout.live / "volume-plugins"),
        "podLogsDir": str(layout.live / "pod-logs"),
    }
    file = layout.live / "kubelet.json"
    _write_json(file, config)
    flags = {
        "config": file,
        "kubeconfig": plane.kubeconfig_of("kubelet"),
        "root-dir": layout.live / "kubelet",
        "cert-dir": layout.certificates,
        "hostname-override": NODE,
        "node-ip": GATEWAY,
    }
    return Daemon("kubelet", (str(kubernetes("kubelet")), *(f"--{name}={value}" for name, value in flags.items())))


# --- services and names ----------------------------------------------------------------------------------------------


def kube_proxy(layout: Layout, plane: ControlPlane) -> Daemon:
    """Write kube-proxy's configuration and return it. It ends when somebody writes to that file."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(plane.kubeconfig_of("kube-proxy"))},
        "mode": "iptables",
        "hostnameOverride": NODE,
        "bindAddress": GATEWAY,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clusterCIDR": POD_NETWORK,
        "nodePortAddresses": [f"{GATEWAY}/32"],
        # Answers come back by way of the node; without it they would need the kernel's br_netfilter.
        "iptables": {"masqueradeAll": True, "localhostNodePorts": False, "minSyncPeriod": "200ms"},
        # Zero leaves the machine's own limits alone: they are not of this network namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "oomScoreAdj": _NO_ADJUSTMENT,
    }
    file = layout.live / "kube-proxy.json"
    _write_json(file, config)
    return Daemon("kube-proxy", (str(kubernetes("kube-proxy")), f"--config={file}"))


def coredns(layout: Layout, plane: ControlPlane) -> Daemon:
    """Write CoreDNS's configuration and return it. It knows the cluster's names only."""
    config = layout.live / "Corefile"
    config.write_text(
        f""".:53 {{
  bind {GATEWAY}
  errors
  health {DNS_HEALTH.removeprefix("http://").removesuffix("/health")}
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {plane.kubeconfig_of("coredns")}
    pods insecure
    ttl 1
  }}
}}
""",
        encoding="utf-8",
    )
    return Daemon("coredns", (str(COREDNS.path), "-conf", str(config)))


def api_forwarder(descriptor: int, plane: ControlPlane) -> Daemon:
    """Return the way from outside to the API server; `descriptor` is a socket that listens there."""
    program = str(Path(__file__).with_name("forward.py"))
    argv = (sys.executable, program, str(descriptor), plane.address, str(plane.api_port))
    return Daemon("forward", argv, descriptors=(descriptor,))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")  # which YAML readers take, too
