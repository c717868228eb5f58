"""How a batch is split where memory ran out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from support.prepared import PARAMS, RUNTIME, train_config
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import Progress, StageError, Work
from tunesmith_stages.train import batch_split
from tunesmith_stages.train.batch_split import BatchSplit
from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.parent import _next_time
from tunesmith_stages.train.settings import Settings, read_settings
from tunesmith_stages.volume import Volume


def settings_of(micro: int, accumulation: int, evaluation: int = 1) -> Settings:
    made = read_settings(PARAMS, RUNTIME)
    return dataclasses.replace(made, micro_batch_size=micro, accumulation=accumulation, eval_batch_size=evaluation)


@pytest.mark.parametrize(
    ("micro", "accumulation", "expected"),
    [
        pytest.param(8, 2, (4, 4), id="half"),
        pytest.param(3, 4, (1, 12), id="odd"),
        pytest.param(9, 2, (3, 6), id="4 does not divide 18"),
        pytest.param(5, 1, (1, 5), id="a prime number of rows"),
    ],
)
def test_half_as_many_rows_make_up_the_same_batch(micro: int, accumulation: int, expected: tuple[int, int]) -> None:
    """At most half the rows are taken at once, and the passes make up exactly the same batch."""
    settings = settings_of(micro, accumulation)
    split = batch_split.smaller(settings)
    assert split is not None
    smaller = split.apply(settings)
    assert (smaller.micro_batch_size, smaller.accumulation) == expected
    assert smaller.micro_batch_size * smaller.accumulation == micro * accumulation


def test_one_row_at_a_time_is_the_end() -> None:
    """There is nothing smaller than one row; an evaluation that takes more can still take fewer."""
    assert batch_split.smaller(settings_of(1, 8)) is None
    assert batch_split.smaller(settings_of(1, 8, evaluation=4)) == BatchSplit(1, 2)


def test_it_is_kept_for_the_next_attempt(tmp_path: Path) -> None:
    """What was found out is read back; a file that somebody damaged counts as none."""
    folder = tmp_path / "key.checkpoints"
    assert batch_split.read(folder) is None
    batch_split.keep(folder, BatchSplit(2, 1))
    assert batch_split.read(folder) == BatchSplit(2, 1)
    (folder / batch_split.FILE).write_text("{")
    assert batch_split.read(folder) is None


def test_a_split_never_makes_larger_what_the_job_asks_for() -> None:
    """An edit of the job to fewer rows at a time holds, whatever was found out before."""
    assert BatchSplit(4, 4).apply(settings_of(2, 8, evaluation=1)).micro_batch_size == 2


@pytest.mark.parametrize(
    ("wanted", "code", "began", "ends_as"),
    [
        pytest.param("Reduce", ExitCode.OUT_OF_MEMORY, True, ExitCode.TEMPORARY, id="it goes on"),
        pytest.param("Reduce", ExitCode.OUT_OF_MEMORY, False, ExitCode.OUT_OF_MEMORY, id="while the base is loaded"),
        pytest.param("Fail", ExitCode.OUT_OF_MEMORY, True, ExitCode.OUT_OF_MEMORY, id="not wanted"),
        pytest.param("Reduce", ExitCode.BAD_DATA, True, ExitCode.BAD_DATA, id="another reason"),
    ],
)
def test_all_nodes_hear_that_it_goes_on_with_fewer_rows(
    tmp_path: Path, wanted: str, code: ExitCode, began: bool, ends_as: ExitCode
) -> None:
    """The split is kept before the others are told to end, and what they are told is what node 0 ends as."""
    config = train_config(tmp_path, runtime={"onOutOfMemory": wanted})
    folder, unit = tmp_path / "k.1", config.units[0]
    work = Work(config, unit, Volume(tmp_path), folder, Progress(config.stage, unit.name, folder))
    settings = read_settings(work.params, work.runtime)
    exchange = Exchange(folder)
    exchange.folder.mkdir(parents=True)
    if began:
        exchange.beat()
    ending = _next_time(work, settings, StageError(code, "no"), exchange)
    kept = batch_split.read(work.volume.checkpoints(unit.key))
    assert ending.code is ends_as
    assert (ending.reason == "BatchReduced") == (ends_as is ExitCode.TEMPORARY)
    assert kept == (BatchSplit(1, 1) if ends_as is ExitCode.TEMPORARY else None)
