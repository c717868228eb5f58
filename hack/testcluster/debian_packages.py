"""The programs that a cluster with a node takes from the machine, and the Debian packages that they are in."""

from __future__ import annotations

import os
import shutil
import subprocess

from making import tell
from node import cni_folder

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

_PACKAGE_OF = {
    "buildah": "buildah",
    "containerd": "containerd",
    "ctr": "containerd",
    "ip": "iproute2",
    "iptables": "iptables",
    "mount": "mount",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "runc": "runc",
    "unshare": "util-linux",
}
_NETWORK_PLUGINS = "containernetworking-plugins"


def missing_packages() -> list[str]:
    """Return the packages whose programs are not on this machine."""
    missing = {package for program, package in _PACKAGE_OF.items() if not shutil.which(program)}
    return sorted(missing | (set() if cni_folder() else {_NETWORK_PLUGINS}))


def ensure_packages() -> None:
    """Install what is missing.

    Raises:
        StageError: this is no Debian or Ubuntu, or apt-get failed.
    """
    missing = missing_packages()
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise _refused(missing, "there is no apt-get here")
    tell(f"installing {', '.join(missing)} with apt-get")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    # Lists may be missing or old: asked for anew only if it does not work with those that are there.
    for command in (install, ["apt-get", "update", "--quiet"], install):
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
        if command is install and done.returncode == 0 and not missing_packages():
            return
    raise _refused(missing, f"apt-get install failed:\n{done.stderr.strip()}")


def _refused(missing: list[str], why: str) -> StageError:
    return StageError(
        ExitCode.MISSING_INPUT,
        f"the test cluster needs programs that are not installed (packages of Debian: {', '.join(missing)}); {why}",
        reason="PackagesMissing",
        hint="Install them, or let TUNESMITH_TEST_KUBECONFIG name the kubeconfig of a cluster that runs.",
    )
