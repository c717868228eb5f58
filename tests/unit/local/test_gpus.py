"""How many GPUs there are, before anything is done for a job that wants some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tunesmith.local.gpus import GpuMissingError, count_gpus, require_gpus


def machine(root: Path, files: Sequence[str]) -> Path:
    """Make the files by which a machine shows its GPUs; what stands after `=` is in them."""
    for file in files:
        name, _, text = file.partition("=")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


NODES = "sys/class/kfd/kfd/topology/nodes"
FOUR = [*(f"dev/nvidia{number}" for number in range(4)), "dev/nvidiactl", "dev/nvidia-uvm"]
MACHINES: dict[str, tuple[list[str], dict[str, str], int | None]] = {
    "none": (["dev/null"], {}, 0),
    "NVIDIA's, and what is beside them": (FOUR, {}, 4),
    "AMD's, and the processor": (
        ["dev/kfd", f"{NODES}/0/gpu_id=0\n", f"{NODES}/1/gpu_id=51103\n", f"{NODES}/2/gpu_id=9\n"],
        {},
        2,
    ),
    "AMD's, one of which the container may not read": (
        ["dev/kfd", f"{NODES}/0/gpu_id=0\n", f"{NODES}/1/gpu_id=51103\n", f"{NODES}/2/gpu_id/nothing"],
        {},
        1,
    ),
    "Windows'": (["dev/dxg"], {}, None),
    "two of them shown": (FOUR, {"CUDA_VISIBLE_DEVICES": "1,3"}, 2),
    "all of them hidden": (FOUR, {"CUDA_VISIBLE_DEVICES": ""}, 0),
    "all but one behind -1": (FOUR, {"CUDA_VISIBLE_DEVICES": "0,-1,2"}, 1),
    "more named than there are": (["dev/nvidia0"], {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 1),
}


@pytest.mark.parametrize("name", MACHINES)
def test_gpus_are_counted(tmp_path: Path, name: str) -> None:
    """Devices are counted as the kernel shows them, as far as the environment lets programs see them."""
    files, environ, wanted = MACHINES[name]
    assert count_gpus(environ, machine(tmp_path, files)) == wanted


@pytest.mark.parametrize(
    ("wanted", "files", "environ", "words"),
    [
        (1, [], {}, "`spec.training.gpusPerNode` is 1, but this machine has no GPU"),
        (4, ["dev/nvidia0"], {}, "`spec.training.gpusPerNode` is 4, but this machine has 1"),
        (3, FOUR, {"CUDA_VISIBLE_DEVICES": "0,1"}, "is 3, but this machine has 2 (CUDA_VISIBLE_DEVICES is '0,1')"),
    ],
)
def test_too_few_gpus_are_told_at_the_start(
    tmp_path: Path, wanted: int, files: list[str], environ: dict[str, str], words: str
) -> None:
    """A job that wants more GPUs than there are is refused before its data are fetched."""
    with pytest.raises(GpuMissingError) as caught:
        require_gpus(wanted, environ, machine(tmp_path, files))
    assert words in str(caught.value)


@pytest.mark.parametrize(("wanted", "files"), [(0, []), (4, FOUR), (2, FOUR), (8, ["dev/dxg"])])
def test_enough_gpus_are_no_matter(tmp_path: Path, wanted: int, files: list[str]) -> None:
    """A training on the CPU wants none; where they cannot be counted, `train` asks."""
    require_gpus(wanted, {}, machine(tmp_path, files))
