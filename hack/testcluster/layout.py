"""Where a test cluster keeps its things, and what it is called. Two clusters of different names share nothing.

Addresses are the same for all: each cluster has a network namespace of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

NODE = "node1"
BRIDGE = "pods0"
GATEWAY = "10.88.0.1"
"""The node's address: API server, DNS, kubelet, and the pods' way out (there is none)."""
POD_NETWORK = "10.88.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
API_PORT = 6443

_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


def scripts_digest() -> str:
    """Return a digest of all that a cluster is made by: another one means that it would be made otherwise now."""
    here = Path(__file__).parent
    files = sorted(path for kind in ("*.py", "*.yaml", "programs/*/go.mod") for path in here.glob(kind))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


@dataclass(frozen=True)
class Layout:
    """The paths of one cluster."""

    name: str = "default"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"the cluster's name `{self.name}` must be 1 to 20 of a-z, 0-9 and -, a letter first")

    @property
    def state(self) -> Path:
        """All that the cluster has; ``down`` keeps what is outside of :attr:`live`: images and logs."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "tunesmith" / "testcluster" / self.name

    @property
    def live(self) -> Path:
        """What belongs to one run of the cluster, removed by ``down``."""
        return self.state / "live"

    @property
    def logs(self) -> Path:
        """A log for each program; the next run begins them anew."""
        return self.state / "logs"

    @property
    def images(self) -> Path:
        """The images and containers of containerd."""
        return self.state / "containerd"

    @property
    def lock(self) -> Path:
        """Held by who brings the cluster up or down."""
        return self.state / ".lock"

    @property
    def use(self) -> Path:
        """Held by who needs the cluster to stay as it is."""
        return self.state / ".use"

    @property
    def machine(self) -> Path:
        """Who runs the cluster, while it runs: process id and start time."""
        return self.live / "machine.pid"

    @property
    def ready(self) -> Path:
        """There as soon as the cluster can be used; holds :func:`scripts_digest` of the scripts that made it."""
        return self.live / "ready"

    @property
    def containerd_socket(self) -> Path:
        """For ``ctr --address``."""
        return self.live / "containerd.sock"

    @property
    def certificates(self) -> Path:
        """Keys and certificates."""
        return self.live / "certificates"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for this machine: the API server by a port of the loopback interface."""
        return self.live / "kubeconfig"

    @property
    def inner_kubeconfig(self) -> Path:
        """The same inside the cluster's network namespace, where services and pods can be reached too."""
        return self.live / "admin.kubeconfig"

    @property
    def cgroup(self) -> str:
        """Path of the pods' cgroup, in every hierarchy; another cache folder makes it another one."""
        return f"/tunesmith-test-{self.name}-{hashlib.sha256(os.fsencode(self.state)).hexdigest()[:8]}"
