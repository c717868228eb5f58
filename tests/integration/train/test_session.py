"""What a rank checks before it trains, and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import torch.distributed as dist
from transformers import TrainerState

from support.builders import work_of
from support.prepared import PARAMS, RUNTIME, train_config, write_prepared, write_rows
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.checkpoints import COMPLETE
from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.limits import EarlyStopping
from tunesmith_stages.train.rows import Rows
from tunesmith_stages.train.session import _check_evaluations, _join, _open_data, _take_the_best
from tunesmith_stages.train.settings import read_settings
from tunesmith_stages.train.trainer import Data, FineTuner


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


def test_prepared_data_without_rows(tmp_path: Path) -> None:
    """A training on nothing ends before a model is loaded."""
    write_rows(tmp_path / "train.arrow", [])
    with pytest.raises(StageError) as caught:
        _open_data(tmp_path, read_settings(PARAMS, RUNTIME))
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "NoRows")


def test_fewer_gpus_than_the_training_wants() -> None:
    """A node that shows fewer GPUs than asked for is told of by their number, before anything is loaded."""
    there = torch.cuda.device_count()
    settings = dataclasses.replace(read_settings(PARAMS, RUNTIME), gpus=there + 1)
    with pytest.raises(
        StageError, match=f"`gpusPerNode` is {there + 1}, but this machine shows {there} GPUs"
    ) as caught:
        _join(settings)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "GpuMissing")
    assert not dist.is_initialized()


@pytest.fixture
def group() -> Iterator[None]:
    """Make this process the only rank of a group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_the_best_checkpoint_must_be_whole(tmp_path: Path, damage: str) -> None:
    """Other weights than those of the lowest loss would be served as the best; the sentence says what is wrong."""
    work = work_of(train_config(tmp_path))
    folder = work.volume.checkpoints(work.unit.key) / "step-2"
    if damage == "cut short":
        folder.mkdir(parents=True)
        (folder / COMPLETE).write_text("{")
    measured = [{"step": 2, "eval_loss": 1.0}, {"step": 4, "eval_loss": 1.5}]
    trainer = SimpleNamespace(state=TrainerState(global_step=4, log_history=measured))
    with pytest.raises(StageError, match=f"lowest at step 2, but the checkpoint of that step.*{COMPLETE}") as caught:
        _take_the_best(work, cast(FineTuner, trainer), Exchange(work.folder))
    assert (caught.value.code, caught.value.reason) == (ExitCode.GATE_FAILED, "BestCheckpointLost")
    assert str(folder.parent) in caught.value.hint
