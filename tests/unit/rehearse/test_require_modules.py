from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.rehearse import require_modules


def base_with(folder: Path, **shapes: list[int]) -> Path:
    """Write a safetensors file that holds only a header, for tensors without elements."""
    header = {
        name.replace("__", "."): {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in shapes.items()
    }
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return folder


def test_modules_of_the_base_pass(tmp_path: Path) -> None:
    """A target is the end of a module's name; AllLinear needs no look."""
    base = base_with(tmp_path, model__layers__0__self_attn__q_proj__weight=[0, 4], model__norm__weight=[0])
    for targets in (["q_proj"], ["self_attn.q_proj"], ["AllLinear"], []):
        require_modules(base, targets)


@pytest.mark.parametrize("target", ["q_prj", "proj", "norm"])
def test_other_modules_are_refused_before_the_training(tmp_path: Path, target: str) -> None:
    """A target that is no matrix of the base is refused, with those that are."""
    base = base_with(tmp_path, model__layers__0__self_attn__q_proj__weight=[0, 4], model__norm__weight=[0])
    with pytest.raises(StageError, match="it has q_proj") as caught:
        require_modules(base, [target])
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "TargetModuleUnknown")
