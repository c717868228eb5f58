"""The GPUs of this machine, without PyTorch: how many there are, and how much memory they have."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ASK_SECONDS = 10
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


class GpuMissingError(Exception):
    """The job wants more GPUs than this machine has."""


def require_gpus(wanted: int, environ: Mapping[str, str], root: Path = Path("/")) -> None:
    """Check that this machine has the GPUs that the job wants on a node: before the data are prepared, not after.

    `train` asks PyTorch itself, which knows of those that cannot be used, too.

    Args:
        wanted: GPUs on a node.
        environ: the environment that the stages get.
        root: where the machine's devices are found.

    Raises:
        GpuMissingError: it has fewer.
    """
    there = count_gpus(environ, root)
    if there is not None and there < wanted:
        shown = f"has {there}" if there else "has no GPU"
        hidden = [name for name in _VISIBLE if name in environ]
        by = f" ({hidden[0]} is {environ[hidden[0]]!r})" if hidden else ""
        raise GpuMissingError(f"`spec.training.gpusPerNode` is {wanted}, but this machine {shown}{by}")


def count_gpus(environ: Mapping[str, str], root: Path = Path("/")) -> int | None:
    """Return how many GPUs a program on this machine may use; None if that cannot be told (Windows' Linux)."""
    if (root / "dev/dxg").exists():
        return None
    nvidia = len(list((root / "dev").glob("nvidia[0-9]*")))
    amd = _amd_gpus(root / "sys/class/kfd/kfd/topology/nodes") if (root / "dev/kfd").exists() else 0
    there = nvidia or amd
    for name in _VISIBLE:
        if name in environ:
            there = min(there, _listed(environ[name]))
    return there


def _amd_gpus(nodes: Path) -> int:
    """Return how many of the kernel's compute nodes are GPUs: processors have the number 0."""
    return sum(_gpu_id(file) not in {"", "0"} for file in nodes.glob("*/gpu_id"))


def _gpu_id(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:  # the kernel does not let a container see the GPUs that are not its own
        return ""


def _listed(devices: str) -> int:
    """Return how many devices a list names; CUDA reads it up to the first that is none, such as -1."""
    names = [name.strip() for name in devices.split(",")]
    return next((number for number, name in enumerate(names) if not name or name.startswith("-")), len(names))


def gpu_memory() -> int | None:
    """Return the bytes of memory of the smallest GPU, as NVIDIA's driver tells; None if it does not."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True).stdout
        return min(int(line) for line in told.splitlines()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
