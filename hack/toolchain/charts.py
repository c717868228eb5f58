"""Builds the pinned tools of the Helm chart: Helm 4 and 3, kubeconform, helm-unittest, helm-docs.

    python hack/toolchain/charts.py [TOOL ...]      builds these (default: all), prints their paths

``charts.txt`` pins them. Each is built from its own module as the Go proxy serves it, with the module's own go.mod and
go.sum: so it is the program that its authors test, and the one hash in ``charts.txt`` holds all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from making import check_go, is_whole, make_once, run_main
from tied import tied

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import run_tool, toolchain_folder

PINS = Path(__file__).with_suffix(".txt")
_VERSION_VARIABLES = {
    "helm4": ("helm.sh/helm/v4/internal/version.version=v{version}",),
    # Helm 4 reads the Kubernetes version from its own build information; Helm 3 has to be told, or it says 1.20.
    "helm3": (
        "helm.sh/helm/v3/internal/version.version=v{version}",
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor={kubernetes_minor}",
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor={kubernetes_minor}",
    ),
    "kubeconform": ("main.version=v{version}",),
    "helm-unittest": ("github.com/helm-unittest/helm-unittest/internal/build.version=v{version}",),
    "helm-docs": ("main.version={version}",),
}
"""What the linker writes into each program, as its authors' own build does."""


@dataclass(frozen=True)
class Tool:
    """One pinned tool: its name here, its version, and the Go module, hash and package that it is built from."""

    name: str
    version: str
    module: str
    hash: str
    package: str

    @property
    def folder(self) -> Path:
        """The folder that holds it once it is built."""
        return toolchain_folder() / f"{self.name}-{self.version}"

    @property
    def path(self) -> Path:
        """The program, built or not. Both Helms are called ``helm``, as their own messages say."""
        return self.folder / "bin" / Path(self.package).name


def pinned() -> dict[str, Tool]:
    """Return the pinned tools by name."""
    lines = [line.split() for line in PINS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {fields[0]: Tool(*fields) for fields in lines if fields}


def ensure(name: str) -> Path:
    """Return the program of a pinned tool, built first if need be.

    Raises:
        StageError: it is not pinned, Go is missing, what the proxy serves is not what was pinned, or the build failed.
    """
    if name not in pinned():
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"{name} is not pinned; it must be one of: {', '.join(pinned())}",
            reason="ToolNotPinned",
            hint=f"To pin another: add a line to {PINS.name}.",
        )
    tool = pinned()[name]
    if not is_whole(tool.folder):
        check_go(tool.name)
        make_once(
            tool.folder,
            tool.version,
            "up to 3 minutes the first time",
            lambda _work, prefix, log: _make(tool, prefix, log),
        )
    return tool.path


def _make(tool: Tool, prefix: Path, log: Path) -> None:
    environ = {**os.environ, "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0"}
    source = _download(tool, environ)  # in Go's module cache, which a build with -mod=readonly only reads
    known = {"version": tool.version, "kubernetes_minor": _kubernetes_minor(source)}
    stamps = [f"-X={variable.format(**known)}" for variable in _VERSION_VARIABLES[tool.name]]
    build: list[str | Path] = ["go", "build", "-C", source, "-mod=readonly", "-trimpath", "-buildvcs=false"]
    build += [f"-ldflags={' '.join(['-s', '-w', *stamps])}", "-o", prefix / "bin" / tool.path.name, f"./{tool.package}"]
    run_tool(tied(build), log, what=f"compiling {tool.name} {tool.version}", environ=environ)
    shutil.copyfile(source / "LICENSE", prefix / "LICENSE")


def _download(tool: Tool, environ: dict[str, str]) -> Path:
    """Return the folder of the module in Go's cache, its hash compared with the pinned one."""
    command = ["go", "mod", "download", "-json", f"{tool.module}@v{tool.version}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ, cwd="/")
    told = json.loads(done.stdout or "{}")
    if done.returncode:
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"{tool.module} {tool.version} cannot be downloaded: {told.get('Error') or done.stderr.strip()}",
            reason="DownloadFailed",
            hint="`go mod download` must work on this machine: see GOPROXY in `go help environment`.",
        )
    if told["Sum"] != tool.hash:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{tool.module} {tool.version} has the hash {told['Sum']}, but {PINS.name} pins {tool.hash}",
            reason="HashDiffers",
            hint="Do not use it before you know why. After a deliberate change of version, write the new hash there.",
        )
    return Path(told["Dir"])


def _kubernetes_minor(source: Path) -> str:
    """Return the Kubernetes minor version of the client in a module: v0.36.2 of client-go is Kubernetes 1.36."""
    for line in (source / "go.mod").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[:1] == ["k8s.io/client-go"]:
            return fields[1].split(".")[1]
    return ""


def main() -> int:
    """Build what the arguments name, and print the paths of the programs."""
    parser = argparse.ArgumentParser(description="Build the pinned tools of the Helm chart.")
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"any of {', '.join(pinned())}")
    for name in parser.parse_args().tools or pinned():
        print(ensure(name))
    return 0


if __name__ == "__main__":
    run_main(main)
