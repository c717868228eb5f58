"""The programs of a control plane and their command lines: etcd, API server, controller-manager, scheduler.

Used by the cluster with a node (``machine.py``) and by the API-only servers of the integration tests.
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certificates import Authority
from daemons import Daemon
from programs import ETCD, KWOK, kubernetes

_LOOPBACK = "127.0.0.1"
_FAST = ("--kube-api-qps=500", "--kube-api-burst=1000")  # by default even the first service account waits 4.5 s
_ALONE = ("--leader-elect=false", "--secure-port=0", "--profiling=false")
_ASK_SECONDS = 2.0


@dataclass(frozen=True)
class ControlPlane:
    """Where a control plane keeps its data and listens.

    Attributes:
        folder: for etcd's data and the kubeconfigs.
        authority: has signed what ``certificates.sign_control_plane`` signs.
        address: IP address of the API server.
        api_port: its port.
        etcd_ports: two ports of the loopback interface.
        service_network: CIDR of the services' addresses.
    """

    folder: Path
    authority: Authority
    address: str
    api_port: int
    etcd_ports: tuple[int, int]
    service_network: str

    @property
    def url(self) -> str:
        """Address of the API server."""
        return f"https://{self.address}:{self.api_port}"

    def kubeconfig_of(self, client: str) -> Path:
        """Return the path of a client's kubeconfig; ``write_kubeconfigs`` has written it."""
        return self.folder / f"{client}.kubeconfig"

    def write_kubeconfigs(self, *clients: str) -> None:
        """Write the kubeconfigs of clients whose certificates are signed."""
        for client in clients:
            self.authority.kubeconfig(self.kubeconfig_of(client), self.url, client)


def etcd(plane: ControlPlane) -> Daemon:
    """Return the store of the API server."""
    client, peer = (f"http://{_LOOPBACK}:{port}" for port in plane.etcd_ports)
    listens = (f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}")
    member = ("--name=test", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=test={peer}")
    # Nothing here is to outlast a power cut; on a busy disk each change of an object would wait for seconds.
    store = (f"--data-dir={plane.folder / 'etcd'}", "--unsafe-no-fsync")
    return Daemon("etcd", (str(ETCD.path), *store, *listens, *member))


def api_server(plane: ControlPlane, *, node: bool) -> Daemon:
    """Return the API server; `node` tells whether pods can reach it, as the service `kubernetes`."""
    authority = plane.authority
    options = {
        "etcd-servers": f"http://{_LOOPBACK}:{plane.etcd_ports[0]}",
        "bind-address": plane.address,
        "advertise-address": plane.address,
        "secure-port": plane.api_port,
        "service-cluster-ip-range": plane.service_network,
        "endpoint-reconciler-type": "lease" if node else "none",  # a loopback address is no endpoint
        "allow-privileged": "true",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "client-ca-file": authority.certificate,
        "tls-cert-file": authority.certificate_of("apiserver"),
        "tls-private-key-file": authority.key_of("apiserver"),
        "service-account-key-file": authority.key_of("tokens").with_suffix(".pub"),
        "service-account-signing-key-file": authority.key_of("tokens"),
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "kubelet-client-certificate": authority.certificate_of("apiserver-kubelet-client"),
        "kubelet-client-key": authority.key_of("apiserver-kubelet-client"),
        "kubelet-certificate-authority": authority.certificate,
        "kubelet-preferred-address-types": "InternalIP",  # or `kubectl logs` looks up the node's name
        "requestheader-client-ca-file": authority.certificate,
        "requestheader-allowed-names": "front-proxy",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": authority.certificate_of("front-proxy"),
        "proxy-client-key-file": authority.key_of("front-proxy"),
        "profiling": "false",
    }
    flags = (f"--{name}={value}" for name, value in options.items())
    return Daemon("kube-apiserver", (str(kubernetes("kube-apiserver")), *flags))


def controller_manager(plane: ControlPlane) -> Daemon:
    """Return the controllers of Kubernetes: Jobs, garbage collection, service accounts and the others."""
    authority = plane.authority
    options = {
        "kubeconfig": plane.kubeconfig_of("controller-manager"),
        "service-account-private-key-file": authority.key_of("tokens"),
        "root-ca-file": authority.certificate,
        "cluster-signing-cert-file": authority.certificate,
        "cluster-signing-key-file": authority.key_of("ca"),
        "use-service-account-credentials": "true",
        "allocate-node-cidrs": "false",
    }
    flags = (f"--{name}={value}" for name, value in options.items())
    return Daemon("kube-controller-manager", (str(kubernetes("kube-controller-manager")), *flags, *_ALONE, *_FAST))


def scheduler(plane: ControlPlane) -> Daemon:
    """Return the scheduler."""
    config = f"--kubeconfig={plane.kubeconfig_of('scheduler')}"
    return Daemon("kube-scheduler", (str(kubernetes("kube-scheduler")), config, *_ALONE, *_FAST))


def kwok(plane: ControlPlane) -> Daemon:
    """Return the simulator of nodes: it plays the kubelet of every node with the annotation kwok.x-k8s.io/node.

    A pod there is Running at once; one of a Job has Succeeded at once.
    """
    stages = tuple(f"--config={file}" for file in sorted((KWOK.folder / "data").glob("*.yaml")))
    manage = ("--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node")
    return Daemon("kwok", (str(KWOK.path), f"--kubeconfig={plane.kubeconfig_of('admin')}", *manage, *stages))


def ask(plane: ControlPlane, path: str) -> Any:
    """Return what the API server answers to the administrator's GET: JSON or text; nothing if it does not (yet)."""
    context = ssl.create_default_context(cafile=plane.authority.certificate)
    context.load_cert_chain(plane.authority.certificate_of("admin"), plane.authority.key_of("admin"))
    connection = http.client.HTTPSConnection(plane.address, plane.api_port, timeout=_ASK_SECONDS, context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        content = answer.read().decode()
        if answer.status != http.client.OK:
            return None
        return json.loads(content) if answer.headers.get_content_type() == "application/json" else content
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def is_ready(plane: ControlPlane) -> bool:
    """Tell whether the API server serves."""
    return bool(ask(plane, "/readyz") == "ok")


def has_service_accounts(plane: ControlPlane) -> bool:
    """Tell whether the controllers have begun their work: pods can be created in the namespace `default`."""
    return ask(plane, "/api/v1/namespaces/default/serviceaccounts/default") is not None
