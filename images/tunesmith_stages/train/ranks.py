"""Starts this node's ranks by torchrun, and ends them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tunesmith_stages.track.asked import SECRET_VARIABLES
from tunesmith_stages.train.control_group import cpu_limit
from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.launch import Launch, Meeting
from tunesmith_stages.train.settings import Settings, threads_per_rank

_POLL_SECONDS = 0.1
_KILL_SECONDS = 5.0
"""How long ranks that nothing more is wanted of may take to end: SIGTERM ends them as they are."""

_KEEP_MEMORY: Mapping[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_ARENA_MAX": "1",
}
"""What has glibc keep memory that a pass on the CPU gives back, for the next pass (mallopt(3)). Left to itself it hands
large tensors back to the kernel and gets them anew, each page zeroed: a tenth of a step and more. With one
arena no thread has a heap of its own, which would be too small for them. Other C libraries pass over these variables.
"""


@contextmanager
def running_ranks(folder: Path, settings: Settings, meeting: Meeting | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run torchrun for the attempt in `folder`; whatever ends the block early ends all ranks with it."""
    launch = Launch(os.getpid(), folder, settings.processes, meeting)
    with torchrun_log(folder, launch.node).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith_stages.train.launch", launch.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(settings, meeting, os.environ),
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone, which then ends the ranks
        )
    try:
        yield process
    finally:
        _end(process)


def torchrun_log(folder: Path, node: int) -> Path:
    """Return where torchrun on `node` writes, in the attempt's folder."""
    return folder / "logs" / (f"torchrun-{node}.log" if node else "torchrun.log")


def environment(settings: Settings, meeting: Meeting | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the ranks' environment: this process's own, with what the training needs."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    made = {
        "OMP_NUM_THREADS": str(threads_per_rank(cores, load, settings.processes, cpu_limit())),
        **(_network(meeting) if meeting else {}),
        **(_KEEP_MEMORY if settings.on_cpu else {}),
        **{name: value for name, value in environ.items() if name not in SECRET_VARIABLES},
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(settings.shutdown),
        # Nothing is compiled here, but DeepSpeed decorates functions with torch.compile, and that imports the whole
        # compiler: 5 seconds in every rank.
        "TORCHDYNAMO_DISABLE": "1",
    }
    if settings.on_cpu:
        made.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
        if meeting is None:
            made["GLOO_SOCKET_IFNAME"] = "lo"
    return made


def _network(meeting: Meeting) -> dict[str, str]:
    """Return the interface that Gloo and NCCL are to use, unless the pod's environment names another.

    Left to themselves they take the one that the host name stands for (Gloo), or every one that is up (NCCL), whether
    or not it leads to the other nodes. The one by which the nodes have met does. NCCL's traffic over InfiniBand or
    RoCE is not bound to it: only its beginnings are.
    """
    name = interface_of(meeting.own_address)
    return {} if name is None else {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}


def interface_of(address: str) -> str | None:
    """Return the network interface that has `address`, or None if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address.partition("%")[0] == address.partition("%")[0] for found in addresses):
            return str(name)
    return None


def let_ranks_end(
    process: subprocess.Popen[bytes], exchange: Exchange, node: int, seconds: float, go_on: Callable[[], bool]
) -> None:
    """Ask this node's ranks to end with a checkpoint, and wait for that, at most `seconds` and while `go_on()`."""
    try:
        exchange.ask_to_end(node, seconds)
    except OSError:  # a volume that takes no word takes no checkpoint either
        return
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and go_on():
        time.sleep(_POLL_SECONDS)
    go_on()  # what they told last: that a checkpoint was saved, and how long it took


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_SECONDS)
    process.kill()  # the ranks go with it: see lifeline
    process.wait()
