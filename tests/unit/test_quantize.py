from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunesmith_stages import quantize
from tunesmith_stages.quantize import fallback_tensors

LOG = """[   1/  30]                   output.weight - [  128,   406,     1,     1], type =    f16, size = 1 MiB -> 1 MiB
warning: blk.0.ffn_down.weight                - ncols    192 not divisible by 256 (required for type    q6_K) -> falling back to    q8_0
warning: blk.0.attn_q.weight                  - ncols     72 not divisible by 256 (required for type    q4_K) (WARNING: must use F16 due to unusual shape) -> falling back to     f16
[   2/  30]              output_norm.weight - [  128,     1,     1,     1], type =    f32, size =    0.000 MiB
main: quantize time =    10.00 ms
"""  # noqa: E501 - as the tool writes it


def test_tensors_of_another_type_are_named() -> None:
    """Tensors whose rows do not fit the type are found in the tool's log with the type that they got."""
    assert fallback_tensors(LOG) == {"blk.0.ffn_down.weight": "q8_0", "blk.0.attn_q.weight": "f16"}
    assert fallback_tensors("main: quantize time = 10.00 ms\n") == {}


def test_same_type_costs_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has the type already is linked, and copied only where links are not possible."""
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"weights")
    quantize._link(source, target)
    assert target.stat().st_ino == source.stat().st_ino

    def no_links(*_: object) -> None:
        raise OSError("this file system has no hard links")

    monkeypatch.setattr(os, "link", no_links)
    quantize._link(source, target)
    assert target.stat().st_ino != source.stat().st_ino
    assert target.read_bytes() == b"weights"
