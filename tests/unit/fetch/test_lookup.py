from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.builders import job, result_on, stage_config, write_base
from tunesmith.core.plan import plan
from tunesmith_stages.contract import (
    ExitCode,
    LaterUnit,
    Report,
    StageConfig,
    StageName,
    UnitConfig,
    content_key,
)
from tunesmith_stages.fetch.stage import fetch, resolved
from tunesmith_stages.lookup import look_up
from tunesmith_stages.program import carry_out
from tunesmith_stages.volume import Volume


@pytest.fixture(scope="session")
def a_volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources") / "volume"
    write_base(root / "models" / "base")
    (root / "data").mkdir()
    (root / "data" / "faq.json").write_text("[]")
    return root


@pytest.fixture
def root(tmp_path: Path, a_volume: Path) -> Path:
    """Return a volume with a base model and a dataset."""
    return shutil.copytree(a_volume, tmp_path / "volume")


def fetching(root: Path) -> StageConfig:
    """Return the stage.json of `fetch` as an edge writes it that cannot see the volume, with what follows."""
    units = tuple(dataclasses.replace(unit, role=unit.name) for unit in plan(job(), {}).stage(StageName.FETCH).units)
    later = LaterUnit(StageName.PREPARE, "prepare", {"seed": 1}, ("base", "dataset:faq"), "prepared")
    return StageConfig(StageName.FETCH, "support-bot", str(root), "1", units, {"resolve": True}, (later,))


def contents(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def run(root: Path, config: StageConfig) -> tuple[int, Report]:
    """Run the program and return its exit code and its report."""
    place = root.parent
    (place / "stage.json").write_text(config.to_json())
    argv = [sys.executable, "-m", "tunesmith_stages.lookup", "--config", str(place / "stage.json")]
    done = subprocess.run(
        [*argv, "--report", str(place / "report")],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.returncode, Report.from_json((place / "report").read_text())


def test_nothing_is_there(root: Path) -> None:
    """That nothing is found is no failure, and nothing is made."""
    before = contents(root)
    assert run(root, fetching(root)) == (ExitCode.OK, Report())
    assert contents(root) == before


def test_what_the_stage_reported_is_found_again(root: Path) -> None:
    """A look-up tells what the program told at its end: keys, versions, digests and figures, all cached now."""
    told = carry_out(fetching(root), fetch, resolve=resolved)
    wanted = dataclasses.replace(told, units=tuple(dataclasses.replace(unit, cached=True) for unit in told.units))
    assert run(root, fetching(root)) == (ExitCode.OK, Report.from_json(wanted.to_json()))


def test_later_results_are_found_too(root: Path) -> None:
    """What follows from the units that are there is reported as the stage itself would report it."""
    config = fetching(root)
    told = carry_out(config, fetch, resolve=resolved)
    volume = Volume(root)
    inputs = {}
    for unit in config.units:
        result = volume.result(StageName.FETCH, resolved(volume, unit, {}).key)
        assert result is not None
        inputs[unit.role] = result.as_input()
    prepared = result_on(volume, StageName.PREPARE, content_key(StageName.PREPARE, {"seed": 1}, inputs), {"x": "y"})
    found = look_up(config)
    assert [unit.key for unit in found.units] == [*(unit.key for unit in told.units), prepared.key[:16]]


def test_some_units_are_missing(tmp_path: Path) -> None:
    """Of several units those are reported that are there; a gate or a registration as any other unit."""
    for stage in (StageName.QUANTIZE, StageName.REHEARSE, StageName.REGISTER):
        units = tuple(UnitConfig(name, content_key(stage, {"type": name}, {}), {"type": name}) for name in "AB")
        result_on(Volume(tmp_path), stage, units[1].key, {"x": "y"})
        found = look_up(StageConfig(stage, "support-bot", str(tmp_path), "1", units))
        assert [unit.key for unit in found.units] == [units[1].key[:16]]


def test_volume_is_missing(root: Path) -> None:
    """A volume that is not there is not one without results."""
    config = dataclasses.replace(fetching(root), volume=str(root / "no such folder"))
    code, report = run(root, config)
    assert code == ExitCode.BAD_CONFIG
    assert report.failure is not None
    assert report.failure.reason == "VolumeNotFound"


def test_nobody_knows(root: Path) -> None:
    """If a result cannot be looked at, that is a failure: an edge must not take it for missing."""
    config = stage_config(root, StageName.TRAIN)
    config = dataclasses.replace(config, units=(dataclasses.replace(config.units[0], key="k" * 300),))
    Volume(root).units(StageName.TRAIN).mkdir(parents=True)
    code, report = run(root, config)
    assert code == ExitCode.INTERNAL
    assert report.failure is not None
    assert "name too long" in report.failure.message
