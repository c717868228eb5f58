"""Brings the test cluster up: a real Kubernetes with one node, in namespaces of its own, without Docker.

    python hack/testcluster/up.py [--name CLUSTER]

A cluster that is up, made by these very scripts, is left alone. Needs root. What it needs of other programs is
installed or built first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "toolchain"))

import programs
from cgroups import remove_cgroup
from debian_packages import ensure_packages
from layout import Layout, scripts_digest
from load_image import built_id, load
from making import run_main, tell
from node import NETWORK_PLUGINS, PAUSE_IMAGE, cni_folder
from running import alone, is_up, record, stop, using

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import run_tool

_MACHINE = Path(__file__).with_name("machine.py")
_PROGRAMS = (
    "buildah",
    "containerd",
    "ctr",
    "ip",
    "iptables",
    "mount",
    "nsenter",
    "openssl",
    "runc",
    "unshare",
)
_ELSEWHERE = "To test on a cluster that runs already: `make e2e KUBECONFIG=...`."
_NAMESPACES = ("--net", "--mount", "--propagation=slave", "--pid", "--fork", "--mount-proc", "--kill-child")


def up(layout: Layout) -> None:
    """Have the cluster up, with programs and packages made first if need be.

    Raises:
        StageError: not root, something cannot be installed or built, or a program of the cluster failed.
    """
    if not may_make_clusters():
        raise StageError(
            ExitCode.NO_PERMISSION,
            "the test cluster makes namespaces, mounts and cgroups, which only the machine's root may do",
            reason="NotRoot",
            hint=f"Run it as root. {_ELSEWHERE}",
        )
    with alone(layout):
        if is_up(layout):
            if layout.ready.read_text(encoding="utf-8") == scripts_digest():
                return
            tell("the test cluster is up, but these scripts would make it otherwise: making it anew")
            with using(layout):
                clear(layout)
        plugins = () if cni_folder() else (NETWORK_PLUGINS,)
        ensure_packages("the test cluster", _PROGRAMS, plugins, hint=_ELSEWHERE)
        for program in programs.CLUSTER:
            programs.ensure(program)
        _ensure_pause_image()
        clear(layout)
        _start(layout)
        load(layout, PAUSE_IMAGE)


def may_make_clusters() -> bool:
    """Tell whether this process is root, and not only called so in a user namespace (``unshare -r``)."""
    inside, outside, count = Path("/proc/self/uid_map").read_text(encoding="utf-8").splitlines()[0].split()
    return os.geteuid() == 0 and (inside, outside) == ("0", "0") and int(count) > 1


def clear(layout: Layout) -> None:
    """End the cluster if it runs, and remove what one run leaves; images and logs stay."""
    stop(layout)
    remove_cgroup(layout.cgroup)
    if layout.live.exists():
        shutil.rmtree(layout.live)


def _ensure_pause_image() -> None:
    if built_id(PAUSE_IMAGE):
        return
    folder = programs.PAUSE.path.parent
    recipe = Path(__file__).with_name("programs") / "pause" / "Dockerfile"
    build = ["buildah", "bud", "--isolation=chroot", f"--file={recipe}", f"--tag={PAUSE_IMAGE}", str(folder)]
    run_tool(build, programs.PAUSE.folder.with_suffix(".log"), what=f"building {PAUSE_IMAGE}")


def _start(layout: Layout) -> None:
    layout.live.mkdir(mode=0o700, parents=True)
    shutil.rmtree(layout.logs, ignore_errors=True)
    layout.logs.mkdir()
    log = layout.logs / "machine.log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        machine = subprocess.Popen(
            ["unshare", *_NAMESPACES, sys.executable, _MACHINE, layout.name, str(listener.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        record(layout, machine.pid)
    with log.open(encoding="utf-8") as told:
        while not layout.ready.exists():
            ended = machine.poll() is not None
            if lines := told.read():
                tell(lines.rstrip("\n"))
            if ended:
                raise StageError(
                    ExitCode.INTERNAL,
                    "the test cluster did not come up",
                    reason="ClusterFailed",
                    hint=f"What was told is above; the logs are in {layout.logs}.",
                )
            time.sleep(0.1)
        tell(told.read().rstrip("\n"))


def main() -> int:
    """Bring the cluster up and tell how to use it."""
    parser = argparse.ArgumentParser(description="Bring the test cluster up.")
    parser.add_argument(
        "--name", default=Layout.name, metavar="CLUSTER", help="which test cluster (default: %(default)s)"
    )
    layout = Layout(parser.parse_args().name)
    up(layout)
    here = (
        Path(__file__).parent.relative_to(Path.cwd()) if Path.cwd() in Path(__file__).parents else Path(__file__).parent
    )
    option = "" if layout.name == Layout.name else f"--name {layout.name} "
    print(f"""The test cluster is up.
  from this machine   export KUBECONFIG={layout.kubeconfig}
                      kubectl is at {programs.kubernetes("kubectl")}
  inside its network  {sys.executable} {here}/enter.py {option}COMMAND ...
  bring an image      {sys.executable} {here}/load_image.py {option}IMAGE ...
  logs                {layout.logs}
  end it              {sys.executable} {here}/down.py {option}(images stay; --purge removes them too)""")
    return 0


if __name__ == "__main__":
    run_main(main)
