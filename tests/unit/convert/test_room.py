from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.room import require_space
from tunesmith_stages.convert.safetensors_file import TensorInfo
from tunesmith_stages.program import StageError
from tunesmith_stages.quantization_types import OUT_TYPES

MILLION = 1_000_000
TENSORS = [TensorInfo("a", "BF16", (1000, 320), 0, 640_000), TensorInfo("b", "BF16", (1000, 680), 0, 1_360_000)]
BYTES = {"F32": 4 * MILLION, "F16": 2 * MILLION, "BF16": 2 * MILLION, "Q8_0": 1_062_500}


@pytest.mark.parametrize("out_type", OUT_TYPES)
@pytest.mark.parametrize("merges", [True, False])
def test_disk_is_asked_for_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out_type: str, merges: bool
) -> None:
    """The size of the GGUF goes by its type, and merged weights come on top; one byte less is refused."""
    needed = BYTES[out_type] + 64 * 2**20 + merges * 2 * MILLION
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, needed))
    sizes = require_space(tmp_path, TENSORS, out_type, merges=merges)
    assert (sizes.weights, sizes.gguf) == (2 * MILLION, BYTES[out_type])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, needed - 1))
    with pytest.raises(StageError) as caught:
        require_space(tmp_path, TENSORS, out_type, merges=merges)
    assert caught.value.code is ExitCode.NO_SPACE
