"""The samples that an importance matrix is computed on, and how many of them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from support.prepared import write_rows
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.importance_matrix import chunks_for, chunks_in, spread_rows
from tunesmith_stages.program import StageError


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 55, 100, 101])
def test_every_row_comes_once_and_all_parts_early(tmp_path: Path, count: int) -> None:
    """However many rows there are, each comes once, and a tenth of them comes from all over the file."""
    path = tmp_path / "train.arrow"
    write_rows(path, [([number], [number]) for number in range(count)])
    order = [ids[0] for ids in spread_rows(path)]
    assert sorted(order) == list(range(count))
    assert order == [ids[0] for ids in spread_rows(path)]
    if count >= 50:
        assert {number * 5 // count for number in order[: count // 5]} == set(range(5))


@pytest.mark.parametrize(
    ("weights", "chunks"), [(10_000, 128), (8 * 10**9, 128), (16 * 10**9, 64), (70 * 10**9, 32), (10**12, 32)]
)
def test_larger_models_look_at_less(weights: int, chunks: int) -> None:
    """The work has a bound that goes by the model's size, and never falls below what a matrix needs."""
    assert chunks_for(weights) == chunks


def matrix_bytes(chunks: int, size: int) -> bytes:
    """Return a file as llama-imatrix writes it, with one tensor of 64 numbers."""
    pairs = {b"imatrix.chunk_count": chunks, b"imatrix.chunk_size": size}
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, len(pairs))
    for key, value in pairs.items():
        head += struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, value)
    name = b"blk.0.ffn_up.weight.in_sum2"
    head += struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 64, 0, 0)
    return head + b"\0" * (-len(head) % 32) + b"\1" * 256


@pytest.mark.parametrize(
    ("content", "code", "reason", "says"),
    [
        (matrix_bytes(7, 512)[:-1], ExitCode.INTERNAL, "ToolFailed", "ends before its numbers do"),
        (matrix_bytes(7, 64), ExitCode.GATE_FAILED, "ImatrixFailed", "chunks of 512 tokens; its file says 7 of 64"),
        (matrix_bytes(0, 512), ExitCode.GATE_FAILED, "ImatrixFailed", "0 of 512"),
    ],
)
def test_matrix_that_is_not_whole_is_not_kept(
    tmp_path: Path, content: bytes, code: ExitCode, reason: str, says: str
) -> None:
    """llama-imatrix ends well on a full disk, with a part of its file: by its size that is noticed."""
    path = tmp_path / "imatrix.gguf"
    path.write_bytes(matrix_bytes(7, 512))
    assert chunks_in(path, 512) == 7
    path.write_bytes(content)
    with pytest.raises(StageError, match=says) as caught:
        chunks_in(path, 512)
    assert (caught.value.code, caught.value.reason) == (code, reason)
