"""The GPUs of this machine, without PyTorch: whether there are any, and how much memory they have."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_ASK_SECONDS = 10


class GpuMissingError(Exception):
    """The job wants GPUs and this machine has none."""


def require_gpus(wanted: int) -> None:
    """Check that this machine has a GPU if the job wants any: before the data are prepared, not after.

    Whether there are enough of them says `train`, which asks PyTorch.

    Raises:
        GpuMissingError: it has none.
    """
    devices = [Path("/dev/kfd"), Path("/dev/dxg"), *Path("/dev").glob("nvidia[0-9]*")]  # AMD, WSL, NVIDIA
    if wanted and not any(device.exists() for device in devices):
        raise GpuMissingError(f"`spec.training.gpusPerNode` is {wanted}, but this machine has no GPU")


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
