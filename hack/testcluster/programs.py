"""Builds the programs of the test cluster from their pinned Go modules.

    python hack/testcluster/programs.py [NAME ...]   builds these (default: what tests use)

A program is pinned by ``programs/<name>/{go.mod,go.sum}``, which hold the hash of everything that enters it. They go
into the toolchain folder, as ``hack/toolchain`` does it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "toolchain"))

from making import check_go, is_whole, make_once, run_main, tell
from tied import tied

from tunesmith_stages.tools import run_tool, toolchain_folder

PINS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Program:
    """What to build and what it is called.

    Attributes:
        name: of the folder below ``programs/`` and of what is built.
        module: the Go module whose version, in go.mod, is the program's; without one it is our own code.
        package: what to compile; ``.`` is the main.go beside go.mod.
        links: other names of the program, under which it does other things.
        data: files and folders of the module that are put into the folder ``data``.
        expect: how long a build takes, for people.
    """

    name: str
    module: str = ""
    package: str = "."
    links: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    expect: str = "a minute"

    @property
    def version(self) -> str:
        """The pinned version, without ``v``."""
        if not self.module:
            return "1"
        text = (PINS / self.name / "go.mod").read_text(encoding="utf-8")
        found = re.search(rf"^(?:require )?\s*{re.escape(self.module)} v(\S+)", text, re.MULTILINE)
        if not found:
            raise ValueError(f"{PINS / self.name / 'go.mod'} does not require {self.module}")
        return found[1]

    @property
    def folder(self) -> Path:
        """Where it is, built or not."""
        return toolchain_folder() / f"{self.name}-{self.version}"

    @property
    def path(self) -> Path:
        """The program itself."""
        return self.folder / "bin" / self.name


KUBERNETES = Program(
    "kubernetes",
    "k8s.io/kubernetes",
    links=("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"),
    expect="8 CPU-minutes",
)
ETCD = Program("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3")
COREDNS = Program("coredns", "github.com/coredns/coredns", expect="2 CPU-minutes")
PAUSE = Program("pause", expect="seconds")
_STAGES = ("node/fast/node-initialize", "node/heartbeat/node-heartbeat", "pod/fast/pod-ready", "pod/fast/pod-complete")
KWOK = Program(
    "kwok",
    "sigs.k8s.io/kwok",
    "sigs.k8s.io/kwok/cmd/kwok",
    data=tuple(f"kustomize/stage/{stage}.yaml" for stage in (*_STAGES, "pod/fast/pod-delete")),
    expect="2 CPU-minutes",
)
KUEUE = Program(
    "kueue", "sigs.k8s.io/kueue", "sigs.k8s.io/kueue/cmd/kueue", data=("charts/kueue",), expect="3 CPU-minutes"
)
"""Queues of Jobs; its chart, ``data/kueue``, installs it."""
_CONFIG = ("cm", "cmd-params-cm", "gpg-keys-cm", "rbac-cm", "secret", "ssh-known-hosts-cm", "tls-certs-cm")
ARGOCD = Program(
    "argocd",
    "github.com/argoproj/argo-cd/v3",
    links=("argocd-application-controller", "argocd-repo-server", "argocd-health"),
    data=(
        *(f"manifests/crds/{kind}-crd.yaml" for kind in ("application", "applicationset", "appproject")),
        *(f"manifests/base/config/argocd-{name}.yaml" for name in _CONFIG),
    ),
    expect="5 CPU-minutes",
)
FLUX = Program("flux", "github.com/fluxcd/kustomize-controller/api", expect="a minute or two")
TRAINER = Program(
    "trainer",
    "github.com/kubeflow/trainer/v2",
    "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager",
    data=(
        "manifests/base/crds",
        "manifests/base/webhook",
        "manifests/base/manager/controller_manager_config.yaml",
        "manifests/base/runtimes/torch_distributed.yaml",
    ),
    expect="2 CPU-minutes",
)
"""Kubeflow Trainer, beside which the operator is measured, and what it makes Jobs by."""
JOBSET = Program(
    "jobset",
    "sigs.k8s.io/jobset",
    "sigs.k8s.io/jobset",
    data=(
        "config/components/crd/bases",
        "config/components/webhook",
        "config/components/manager/controller_manager_config.yaml",
    ),
    expect="2 CPU-minutes",
)
CLUSTER = (KUBERNETES, ETCD, COREDNS, PAUSE, KWOK)
"""What a cluster is made of; the others are built by the tests that use them."""
TESTED = (*CLUSTER, KUEUE, ARGOCD, FLUX)
"""What tests use; the others are built by the benchmarks that compare with them."""
PROGRAMS = {program.name: program for program in (*TESTED, TRAINER, JOBSET)}


def ensure(program: Program) -> Path:
    """Return the folder ``bin`` with a program, built first if need be.

    Raises:
        StageError: Go is missing, or the build failed.
    """
    if not is_whole(program.folder):
        check_go(f"{program.name} {program.version}")
        make_once(
            program.folder,
            program.version,
            f"{program.expect} the first time",
            lambda _work, prefix, log: _make(program, prefix, log),
        )
    return program.path.parent


def kubernetes(program: str) -> Path:
    """Return the path of one of Kubernetes' own programs, built or not."""
    if program not in KUBERNETES.links:
        raise ValueError(f"`{program}` must be one of: {', '.join(KUBERNETES.links)}")
    return KUBERNETES.path.with_name(program)


def _make(program: Program, prefix: Path, log: Path) -> None:
    made = prefix / "bin" / program.name
    build: list[str | Path] = ["go", "build", "-C", PINS / program.name, "-mod=readonly", "-trimpath"]
    build += ["-buildvcs=false", f"-ldflags=-s -w {_stamp(program)}", "-o", made, program.package]
    environ = {**os.environ, "GOFLAGS": "", "GOWORK": "off"}
    run_tool(tied(build), log, what=f"compiling {program.name} {program.version}", environ=environ)
    for name in program.links:
        made.with_name(name).symlink_to(made.name)
    if program.data:
        (prefix / "data").mkdir()
        source = _source_of(program, environ)
        for file in program.data:
            copy = shutil.copytree if (source / file).is_dir() else shutil.copyfile
            copy(source / file, prefix / "data" / Path(file).name)


def _stamp(program: Program) -> str:
    """Return the linker's flags that tell Kubernetes its version; it says v0.0.0 otherwise, and clients mind."""
    if program is not KUBERNETES:
        return ""
    major, minor, _ = program.version.split(".")
    told = {"gitVersion": f"v{program.version}", "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X=k8s.io/component-base/version.{name}={value}" for name, value in told.items())


def _source_of(program: Program, environ: dict[str, str]) -> Path:
    asked = ["go", "list", "-C", str(PINS / program.name), "-mod=readonly", "-m", "-f", "{{.Dir}}", program.module]
    return Path(subprocess.run(asked, check=True, capture_output=True, text=True, env=environ).stdout.strip())


def main() -> int:
    """Build what the arguments name."""
    parser = argparse.ArgumentParser(description="Build the programs of the test cluster.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*PROGRAMS, []], help=", ".join(PROGRAMS))
    named = [PROGRAMS[name] for name in parser.parse_args().names]
    for program in named or TESTED:
        tell(f"{program.name} {program.version}: {ensure(program)}")
    return 0


if __name__ == "__main__":
    run_main(main)
