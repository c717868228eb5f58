"""What the tests on a GPU share: models of real shapes with random weights, and rows to train them on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from support.gpu_shapes import SHAPES, write_volume
from tunesmith_stages.volume import Volume

MakeVolume = Callable[[str], Volume]


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    """Say why nothing is tested where there is no GPU."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU here: these tests train on one, and prove nothing without")


@pytest.fixture(scope="session")
def volume_of(tmp_path_factory: pytest.TempPathFactory) -> MakeVolume:
    """Return a function that makes a volume with a base of a shape, and 64 rows of up to 1,024 tokens."""
    made: dict[str, Volume] = {}

    def volume(shape: str) -> Volume:
        if shape not in made:
            root = tmp_path_factory.mktemp("volume")
            write_volume(root, SHAPES[shape])
            made[shape] = Volume(root)
        return made[shape]

    return volume
