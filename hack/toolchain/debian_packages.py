"""Programs that are taken from the machine, by the Debian packages that they are in. What is missing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection

from making import tell

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

_PACKAGE_OF = {
    "buildah": "buildah",
    "containerd": "containerd",
    "ctr": "containerd",
    "debootstrap": "debootstrap",
    "fusermount3": "fuse3",
    "git": "git",
    "gpg": "gnupg",
    "ip": "iproute2",
    "iptables": "iptables",
    "mount": "mount",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "redis-server": "redis-server",
    "runc": "runc",
    "unshare": "util-linux",
}


def packages_of(programs: Collection[str]) -> set[str]:
    """Return the packages of those programs that are not on this machine.

    Raises:
        KeyError: it is not known in which package one of them is.
    """
    return {_PACKAGE_OF[program] for program in programs if not shutil.which(program)}


def ensure_packages(what: str, programs: Collection[str], further: Collection[str] = (), *, hint: str) -> None:
    """Install what is missing.

    Args:
        what: what needs it, for the error.
        programs: names of the programs that must be on PATH.
        further: packages that are missing besides theirs.
        hint: what to do instead.

    Raises:
        StageError: this is no Debian or Ubuntu, it is not for us to install, or apt-get failed.
    """
    missing = sorted(packages_of(programs) | set(further))
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise _refused(what, missing, "there is no apt-get here", hint)
    if os.geteuid() != 0:
        raise _refused(what, missing, "installing them takes root", hint)
    tell(f"installing {', '.join(missing)} with apt-get")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    # Lists may be missing or old: asked for anew only if it does not work with those that are there.
    for command in (install, ["apt-get", "update", "--quiet"], install):
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
        if command is install and done.returncode == 0 and not packages_of(programs):
            return
    raise _refused(what, missing, f"apt-get install failed:\n{done.stderr.strip()}", hint)


def _refused(what: str, missing: list[str], why: str, hint: str) -> StageError:
    return StageError(
        ExitCode.MISSING_INPUT,
        f"{what} needs programs that are not installed (packages of Debian: {', '.join(missing)}); {why}",
        reason="PackagesMissing",
        hint=hint,
    )
