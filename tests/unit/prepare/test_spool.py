from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from tunesmith_stages.prepare import spool
from tunesmith_stages.prepare.spool import SAMPLE, KeptSamples, spooled_zeros


def test_samples_come_back_as_they_were_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added piece by piece is read in its order, digests to the last bit, and lies in no file that stays."""
    monkeypatch.setattr(spool, "AT_ONCE", 3)
    rows = [0, 2**64 - 1, 2**63 + 1, 5, 2**53 + 1]
    kept = KeptSamples(tmp_path)
    for start in (0, 2):
        samples = np.zeros(len(rows[start : start + 3]), SAMPLE)
        samples["row"] = rows[start : start + 3]
        kept.add(samples[: 2 if start == 0 else 3])
    assert len(kept) == 5
    assert [row for samples in kept.parts() for row in samples["row"].tolist()] == rows
    assert kept.part(1, 3)["row"].tolist() == rows[1:3]
    assert not list(tmp_path.iterdir())


def test_no_samples(tmp_path: Path) -> None:
    """Nothing is mapped where there is nothing."""
    assert list(KeptSamples(tmp_path).parts()) == []
    assert spooled_zeros(tmp_path, 0, np.uint64).tolist() == []


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is taken before it is written to: a mapped file that has none ends the process without a word."""
    taken = []

    def full(_: int, start: int, size: int) -> None:
        taken.append((start, size))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        spooled_zeros(tmp_path, 1000, np.uint64)
    assert taken == [(0, 8000)]
