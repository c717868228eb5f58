from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith_stages.convert.safetensors_file import (
    SafetensorsFile,
    SafetensorsWriter,
    as_float32,
    from_float32,
    weight_files,
)
from tunesmith_stages.program import StageError

TENSORS = {
    "embed": torch.arange(24, dtype=torch.float32).reshape(4, 6).to(torch.bfloat16),
    "norm": torch.ones(6),
    "half": torch.full((2, 3), 0.5, dtype=torch.float16),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "empty": torch.empty(0, 4),
}


def test_copy_through_reader_and_writer_is_what_the_library_wrote(tmp_path: Path) -> None:
    """Reading every tensor and writing it again gives a file that the library reads as the same tensors."""
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(TENSORS, source, {"format": "pt"})
    file = SafetensorsFile(source)
    tensors = sorted(file.tensors.values(), key=lambda info: info.begin)
    with SafetensorsWriter(target, tensors, file.metadata) as writer:
        for info in tensors:
            data = file.bytes_of(info.name)
            writer.write(info.name, [data[:5], data[5:]])
    assert target.stat().st_size == source.stat().st_size
    assert SafetensorsFile(target).metadata == {"format": "pt"}
    copied = load_file(target)
    assert copied.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert copied[name].dtype == tensor.dtype
        assert torch.equal(copied[name], tensor)


def test_writer_refuses_what_its_header_does_not_say(tmp_path: Path) -> None:
    """Too few bytes, another tensor or a tensor left out is an error, not a damaged file."""
    source = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, source)
    infos = list(SafetensorsFile(source).tensors.values())
    with pytest.raises(ValueError, match="bytes"), SafetensorsWriter(tmp_path / "b", infos, {}) as writer:
        writer.write("a", [np.zeros(7, np.uint8)])
    with pytest.raises(ValueError, match="next"), SafetensorsWriter(tmp_path / "b", infos, {}) as writer:
        writer.write("b", [])
    with pytest.raises(ValueError, match="not written"), SafetensorsWriter(tmp_path / "b", infos, {}):
        pass


def broken(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


BROKEN = {
    "empty": b"",
    "header longer than the file": (1 << 40).to_bytes(8, "little"),
    "header not JSON": (4).to_bytes(8, "little") + b"{{{{",
    "header no object": broken([1]),
    "data missing": broken({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
    "offsets against the shape": broken({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
    "negative offset": broken({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, b"12345678"),
    "unknown dtype": broken({"a": {"dtype": "F5", "shape": [2], "data_offsets": [0, 8]}}, b"12345678"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_named(tmp_path: Path, name: str) -> None:
    """A file that is not whole is refused before a byte of it is used."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(StageError, match="not a whole safetensors file") as caught:
        SafetensorsFile(path)
    assert caught.value.reason == "BadWeights"


@pytest.mark.parametrize(("name", "dtype"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_number_formats_round_as_torch_does(name: str, dtype: torch.dtype) -> None:
    """Widening is exact, narrowing rounds to the nearest with ties to even, for normal, tiny, huge and tied numbers."""
    generator = torch.Generator().manual_seed(1)
    values = torch.cat(
        [
            torch.randn(4096, generator=generator) * 10.0 ** torch.randint(-9, 9, (4096,), generator=generator),
            torch.tensor([0.0, -0.0, 1.00390625, 1.01171875, -1.00390625, 65504.0, 3.38e38, 1e-40, 2.0**-24]),
        ]
    )
    expected = values.to(dtype)
    data = from_float32(values.numpy(), name)
    assert bytes(data) == bytes(expected.view(torch.uint8).numpy())
    np.testing.assert_array_equal(as_float32(data, name), expected.float().numpy())


def test_missing_shard_is_named(tmp_path: Path) -> None:
    """The index says which files there must be; the missing one is named."""
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    )
    save_file({"a": torch.ones(1)}, tmp_path / "model-1.safetensors")
    with pytest.raises(StageError, match=r"model-2\.safetensors"):
        weight_files(tmp_path)
