from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tunesmith_stages.gguf_file import TEMPLATE, read_gguf, write_with_text


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def gguf_bytes(version: int = 3, template: str | None = None) -> bytes:
    """Return a file with one key of several kinds and two tensors, the data at the next multiple of 32."""
    keys = [
        pair("general.architecture", 8, text("llama")),
        pair("llama.context_length", 4, struct.pack("<I", 4096)),
        pair("general.file_type", 4, struct.pack("<I", 1)),
        *([] if template is None else [pair("tokenizer.chat_template", 8, text(template))]),
        pair("tokenizer.ggml.add_bos_token", 7, b"\x01"),
        pair("llama.rope.freq_base", 6, struct.pack("<f", 0.5)),
        pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + text("a") + text("ü") + text("<|end|>")),
        pair("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, 1, 3)),
    ]
    tensors = [
        text("token_embd.weight") + struct.pack("<IQQIQ", 2, 4, 3, 1, 0),
        text("output_norm.weight") + struct.pack("<IQIQ", 1, 4, 0, 32),
    ]
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(keys)) + b"".join(keys + tensors)
    return head + b"\0" * (-len(head) % 32) + b"\1" * 64


def test_reads_metadata_and_tensors(tmp_path: Path) -> None:
    """Numbers, strings, booleans and lists come back as they were written, tensors with their extents."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes())
    gguf = read_gguf(path)
    assert gguf.architecture == "llama"
    assert gguf.own("context_length") == 4096
    assert gguf.metadata["tokenizer.ggml.tokens"] == ["a", "ü", "<|end|>"]
    assert gguf.metadata["tokenizer.ggml.token_type"] == [1, 1, 3]
    assert gguf.metadata["tokenizer.ggml.add_bos_token"] is True
    assert gguf.metadata["llama.rope.freq_base"] == 0.5
    assert [(tensor.name, tensor.shape) for tensor in gguf.tensors] == [
        ("token_embd.weight", (4, 3)),
        ("output_norm.weight", (4,)),
    ]
    assert gguf.size - gguf.data_offset == 64
    assert gguf.bits_per_weight == 64 * 8 / 16


@pytest.mark.parametrize("keep", [0, 3, 20, 60, 150, 300])
def test_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    """A file that ends within its head is named as cut short, wherever it ends."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes()[:keep])
    with pytest.raises(ValueError, match="cut short"):
        read_gguf(path)


def test_file_without_all_of_its_tensors_is_known(tmp_path: Path) -> None:
    """A file that ends within its tensors has a whole head, and tells by its size."""
    data = gguf_bytes()
    path = tmp_path / "model.gguf"
    # The second tensor has 16 bytes from the 32nd on; what follows is padding.
    for lost, is_cut in ((0, False), (16, False), (17, True), (64, True)):
        path.write_bytes(data[: len(data) - lost])
        assert read_gguf(path).is_cut is is_cut


@pytest.mark.parametrize("data", [b"GGML" + gguf_bytes()[4:], gguf_bytes(version=1), gguf_bytes(version=9)])
def test_other_formats_are_refused(tmp_path: Path, data: bytes) -> None:
    """What is no GGUF, or one of a version with another layout, is not guessed at."""
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not a GGUF file of version 2 or 3"):
        read_gguf(path)


@pytest.mark.parametrize("length", [0, 1, 7, 31, 32, 33, 5000])
def test_template_is_changed_and_nothing_else(tmp_path: Path, length: int) -> None:
    """A file gets another template of any length; what else it says, and every byte of its tensors, stays."""
    (tmp_path / "old").write_bytes(gguf_bytes(template="{{ ü }}"))
    write_with_text(read_gguf(tmp_path / "old"), tmp_path / "new", TEMPLATE, "é" * length)
    assert (tmp_path / "new").read_bytes() == gguf_bytes(template="é" * length)


def test_template_that_is_not_there_cannot_be_changed(tmp_path: Path) -> None:
    """A file without a template is refused, not written wrongly."""
    (tmp_path / "old").write_bytes(gguf_bytes())
    with pytest.raises(ValueError, match=TEMPLATE):
        write_with_text(read_gguf(tmp_path / "old"), tmp_path / "new", TEMPLATE, "x")


DAMAGED = {
    "a list longer than any memory": ("a list of more than", pair("a", 9, struct.pack("<IQ", 10, 1 << 60))),
    "a list longer than the file": ("a list of more than", pair("a", 9, struct.pack("<IQ", 0, 1 << 40))),
    "a list of lists": ("a list of lists", pair("a", 9, struct.pack("<IQIQ", 9, 1, 9, 1))),
    "an alignment that is a list": (
        r"multiples of \[1\] bytes",
        pair("general.alignment", 9, struct.pack("<IQI", 4, 1, 1)),
    ),
    "no alignment": ("multiples of 0 bytes", pair("general.alignment", 4, struct.pack("<I", 0))),
}


@pytest.mark.parametrize(("says", "entry"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_head_is_refused(tmp_path: Path, says: str, entry: bytes) -> None:
    """Numbers that make no sense are named as damage, before anything is made of them."""
    (tmp_path / "model.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + entry)
    with pytest.raises(ValueError, match=says):
        read_gguf(tmp_path / "model.gguf")


def test_tensor_of_endless_extents_is_refused(tmp_path: Path) -> None:
    """A tensor of millions of extents, whose product would take hours, is refused unread."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + text("a") + struct.pack("<I", 1 << 20)
    (tmp_path / "model.gguf").write_bytes(head + b"\xff" * (8 << 20))
    with pytest.raises(ValueError, match="a tensor with 1048576 extents"):
        read_gguf(tmp_path / "model.gguf")
