"""What a rank checks before it trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from support.prepared import PARAMS, RUNTIME, write_prepared
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.limits import EarlyStopping
from tunesmith_stages.train.rows import Rows
from tunesmith_stages.train.session import _check_evaluations
from tunesmith_stages.train.settings import read_settings
from tunesmith_stages.train.trainer import Data


def test_what_goes_by_evaluations_needs_rows_for_them(tmp_path: Path) -> None:
    """The best of no evaluations would be the last step, and nothing would ever stop early, without a word."""
    write_prepared(tmp_path / "prepared")
    without = Data(Rows(tmp_path / "prepared" / "train.arrow"), validation=None)
    plain = read_settings(PARAMS, RUNTIME)
    _check_evaluations(plain, without)
    asked = dataclasses.replace(plain, keep_best=True, early_stopping=EarlyStopping(3, 0.0))
    with pytest.raises(StageError, match=r"keepBest` and `validation\.earlyStopping` must have rows") as caught:
        _check_evaluations(asked, without)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "NothingHeldOut")
