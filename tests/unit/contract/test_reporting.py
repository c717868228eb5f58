from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.builders import result_on, stage_config
from tunesmith_stages.contract import (
    Input,
    LaterUnit,
    Report,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
    UnitReport,
    content_key,
)
from tunesmith_stages.program import carry_out
from tunesmith_stages.reporting import follow, write_report
from tunesmith_stages.volume import Volume
from tunesmith_stages.work import Made, Work

PREPARED = Input("stages/prepare/x/out", "p" * 64)
BASE = Input("store/models/b", "b" * 64)
TRAIN = LaterUnit(StageName.TRAIN, "train", {"seed": 1}, ("base", "prepared"), "trained")
CONVERT = LaterUnit(StageName.CONVERT, "convert", {"outType": "F16"}, ("base", "trained"), "converted")
QUANTIZE = tuple(
    LaterUnit(StageName.QUANTIZE, kind, {"type": kind}, ("converted",), f"quantized:{kind}") for kind in ("Q4", "Q8")
)
REGISTER = LaterUnit(StageName.REGISTER, "register", {}, ("quantized:Q4",), "registered")
LATER = (TRAIN, CONVERT, *QUANTIZE, REGISTER)


def config(root: Path, later: tuple[LaterUnit, ...] = LATER) -> StageConfig:
    unit = UnitConfig("prepare", content_key(StageName.PREPARE, {}, {}), role="prepared")
    return StageConfig(StageName.PREPARE, "job", str(root), "1", (unit,), {}, later, {"base": BASE})


def made_already(root: Path, units: tuple[LaterUnit, ...] = LATER) -> dict[str, StageResult]:
    """Put the results of later units on the volume, as if another job had made them."""
    known = {"base": BASE, "prepared": PREPARED}
    results = {}
    for unit in units:
        key = content_key(unit.stage, unit.params, {role: known[role] for role in unit.needs})
        results[unit.name] = result_on(Volume(root), unit.stage, key, {"x": "y"}, unit=unit.name)
        known[unit.role] = results[unit.name].as_input()
    return results


def followed(root: Path, later: tuple[LaterUnit, ...] = LATER) -> list[str]:
    return [result.unit for result in follow(config(root, later), Volume(root), {"prepared": PREPARED})]


# --- what follows ----------------------------------------------------------------------------------------------------


def test_results_are_followed_to_the_end(tmp_path: Path) -> None:
    """From what was made, every later result is found by its key, each by way of the one before."""
    made_already(tmp_path)
    assert followed(tmp_path) == ["train", "convert", "Q4", "Q8"]


def test_registration_is_never_followed(tmp_path: Path) -> None:
    """Whether a model is still served is not for the volume to say; nor is a gate that was passed once."""
    gate = LaterUnit(StageName.REHEARSE, "rehearse", {}, ("base",), "rehearsed")
    made_already(tmp_path, (gate, *LATER))
    assert followed(tmp_path, (gate, *LATER)) == ["train", "convert", "Q4", "Q8"]


GAPS = {"train": [], "convert": ["train"], "Q4": ["train", "convert", "Q8"], "Q8": ["train", "convert", "Q4"]}


@pytest.mark.parametrize("missing", GAPS)
def test_a_gap_ends_what_depends_on_it(tmp_path: Path, missing: str) -> None:
    """What builds on a result that is not there has no key; its neighbours are found all the same."""
    gone = made_already(tmp_path)[missing]
    Volume(tmp_path).forget(gone.stage, gone.key)
    assert followed(tmp_path) == GAPS[missing]


def test_other_inputs_lead_elsewhere(tmp_path: Path) -> None:
    """What was made of something else is not reported."""
    made_already(tmp_path)
    assert follow(config(tmp_path), Volume(tmp_path), {"prepared": Input("x", "q" * 64)}) == []


def test_sixteen_are_followed_at_most(tmp_path: Path) -> None:
    """More than a report can hold is not looked for."""
    many = tuple(
        LaterUnit(StageName.QUANTIZE, f"Q{index}", {"type": f"Q{index}"}, ("base",), f"quantized:Q{index}")
        for index in range(20)
    )
    made_already(tmp_path, many)
    assert followed(tmp_path, many) == [f"Q{index}" for index in range(16)]


# --- what is reported ------------------------------------------------------------------------------------------------


def make(work: Work) -> Made:
    (work.out / "x").write_text(work.unit.name)
    return Made(numbers={"rows": 7})


def test_report_of_a_stage(tmp_path: Path) -> None:
    """A program reports its own unit with its figures, and then all that follows from it."""
    first = carry_out(config(tmp_path), make)
    assert [unit.cached for unit in first.units] == [False]
    assert first.numbers["rows"] == 7
    own = Volume(tmp_path).result(StageName.PREPARE, config(tmp_path).units[0].key)
    assert own is not None
    assert first.units[0] == UnitReport(own.key[:16], own.digest, 7, cached=False)
    key = content_key(TRAIN.stage, TRAIN.params, {"base": BASE, "prepared": own.as_input()})
    trained = result_on(Volume(tmp_path), StageName.TRAIN, key, {"model.bin": "abc"})

    again = carry_out(config(tmp_path), make)
    assert again.units == (
        UnitReport(own.key[:16], own.digest, 7, cached=True),
        UnitReport(key[:16], trained.digest, 3, cached=True),
    )
    assert again.numbers == first.numbers
    assert Report.from_json(again.to_json()).units == again.units


def test_report_of_a_failure(tmp_path: Path) -> None:
    """A stage that fails reports the units that it did make, why it failed, and nothing that comes after."""
    units = tuple(
        UnitConfig(kind, content_key(StageName.QUANTIZE, {"type": kind}, {}), {"type": kind}, role=f"quantized:{kind}")
        for kind in ("Q4", "Q8")
    )

    def second_fails(work: Work) -> Made:
        return make(work) if work.unit.name == "Q4" else _fail()

    report = carry_out(StageConfig(StageName.QUANTIZE, "job", str(tmp_path), "1", units), second_fails)
    assert [unit.key for unit in report.units] == [units[0].key[:16]]
    assert report.failure is not None
    assert "no such tensor" in report.failure.message


def _fail() -> Any:
    raise ValueError("no such tensor")


def test_report_of_the_winner(tmp_path: Path) -> None:
    """If another attempt was first with another content, its digest is reported: that is what lies there."""

    def late(work: Work) -> Made:
        other = stage_config(tmp_path, StageName.CONVERT, attempt="2")
        carry_out(other, make)
        (work.out / "x").write_text("other words")
        return Made()

    report = carry_out(stage_config(tmp_path, StageName.CONVERT), late)
    result = Volume(tmp_path).result(StageName.CONVERT, stage_config(tmp_path, StageName.CONVERT).units[0].key)
    assert result is not None
    assert [unit.digest for unit in report.units] == [result.digest]


def test_report_is_written_into_the_file_that_is_there(tmp_path: Path) -> None:
    """The file of a container's message is written, not replaced: in a Pod it is a mount of its own."""
    path = tmp_path / "termination-log"
    path.write_text("x" * 5000)
    before = path.stat().st_ino
    write_report(path, Report())
    assert path.stat().st_ino == before
    assert Report.from_json(path.read_text()) == Report()


def test_report_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That nobody can be told is no failure of the stage."""
    write_report(tmp_path / "no such folder" / "x", Report())
    assert "could not be written" in caplog.text
