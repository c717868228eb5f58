"""Makes the base image from the machine's own distribution, with debootstrap: no registry is asked for anything.

The packages come from the mirror that this machine's apt uses. The file system is kept as an archive in the cache, so
that a fresh image store has it again in seconds.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from making import make_once
from tied import tied

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import run_tool

RECIPE = "1"
"""Raise it when :func:`_make` makes something else."""

_UNUSED = (
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt/archives",
    "var/lib/apt/lists",
    "var/log",
)
_DISTRIBUTIONS = ("Debian", "Ubuntu")
# As in the distributions' own slim images: no indexes and archives of apt are kept, and no documentation.
_APT_SLIM = """\
Acquire::Languages "none";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };
"""
_DPKG_SLIM = """\
path-exclude /usr/share/doc/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
path-include /usr/share/doc/*/copyright
"""


def ensure_base(cache: Path) -> Path:
    """Return the folder with ``rootfs.tar``, made first if need be.

    Raises:
        StageError: this machine has no debootstrap, is neither Debian nor Ubuntu, or debootstrap failed.
    """
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    folder = cache / f"base-{codename}-{RECIPE}"
    make_once(folder, RECIPE, "about a minute", _make)
    return folder


def _make(work: Path, prefix: Path, log: Path) -> None:
    sources = _apt_sources()
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    mirror = next((uri for uri, suite, _ in sources if suite == codename), "")
    if not mirror or os.geteuid() != 0 or not shutil.which("debootstrap"):
        raise StageError(
            ExitCode.MISSING_INPUT,
            "the base image cannot be made: that takes root, debootstrap, and an apt with a mirror of this release",
            reason="BaseImageImpossible",
            hint="On Debian and Ubuntu: `apt-get install debootstrap`, and run as root. "
            "Elsewhere build with your own base image: images/README.md.",
        )
    root = work / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    run_tool(tied(["debootstrap", "--variant=minbase", codename, root, mirror]), log, what="debootstrap")
    lines = [f"deb {uri} {suite} {component}\n" for uri, suite, component in sources]
    (root / "etc" / "apt" / "sources.list").write_text("".join(lines), encoding="utf-8")
    (root / "etc" / "apt" / "apt.conf.d" / "slim").write_text(_APT_SLIM, encoding="utf-8")
    (root / "etc" / "dpkg" / "dpkg.cfg.d" / "slim").write_text(_DPKG_SLIM, encoding="utf-8")
    for name in _UNUSED:
        for entry in (root / name).iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    pack: list[str | Path] = ["tar", "--create", "--numeric-owner", "--sort=name"]
    pack += [f"--file={prefix / 'rootfs.tar'}", f"--directory={root}", "."]
    run_tool(tied(pack), log, what="packing the base image")


def _apt_sources() -> list[tuple[str, str, str]]:
    """Return address, suite and component of each source of this machine's apt that is the distribution's own."""
    wanted = "$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)"
    asked = ["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"]
    try:
        told = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split("|") for line in told.splitlines())
    return sorted({(uri, suite, component) for origin, uri, suite, component in rows if origin in _DISTRIBUTIONS})
