"""What a clean-up does to a real folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.builders import job as built
from support.made_volume import (
    aged,
    applied,
    carried_out_on,
    failed_attempt,
    observed,
    planned_on,
    write_log,
)
from tunesmith.core.needs import needs_of
from tunesmith.core.plan import later_units
from tunesmith.core.retention import Needs
from tunesmith.housekeeping.collecting import Collector
from tunesmith.local.run import current_plan
from tunesmith_stages.contract import StageConfig, StageName
from tunesmith_stages.preconditions import require_inputs
from tunesmith_stages.progress import Progress
from tunesmith_stages.reporting import Findings
from tunesmith_stages.volume import Volume

DAY = 86_400.0
KEY = "a" * 64


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """Return an empty volume."""
    return Volume(tmp_path)


def clean_up(volume: Volume, *items: dict[str, Any], meanwhile: Callable[[], None] | None = None) -> list[str]:
    """Clean up with these FineTuneJobs; return what could not be removed."""

    def needs() -> list[Needs]:
        return [needs_of(item) for item in items]

    collector = Collector(volume, needs, grace=DAY, keep_logs=2)
    verdicts = collector.verdicts()
    if meanwhile is not None:
        meanwhile()
    return [one.why_not for one in collector.remove(verdicts) if not one.removed]


def tree(folder: Path) -> set[str]:
    """Return the paths of all files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_deleted_job(volume: Volume) -> None:
    """Everything goes that was made for a job that is deleted, and nothing that people put on the volume."""
    carried_out_on(volume, built())
    failed_attempt(volume, "support-bot", StageName.TRAIN, KEY, "1")
    for name in (
        "data/faq.json",
        "models/base/config.json",
        "notes.txt",
        "stages/train/mine.txt",
        "store/models/README",
    ):
        (volume.root / name).parent.mkdir(parents=True, exist_ok=True)
        (volume.root / name).write_text("mine")
    aged(volume)
    assert clean_up(volume) == []
    left = {"data/faq.json", "models/base/config.json", "notes.txt", "stages/train/mine.txt", "store/models/README"}
    assert tree(volume.root) == left


def test_a_registered_job(volume: Volume) -> None:
    """Of a job that is registered all stays but the converted model; nothing that comes of it is trained again."""
    carried_out_on(volume, built())
    item = observed(applied(), volume)
    before, results = planned_on(volume, built())
    aged(volume)
    assert clean_up(volume, item) == []
    (convert,) = before.stage(StageName.CONVERT).units
    assert volume.result(StageName.CONVERT, convert.key) is None
    assert volume.cleared(StageName.CONVERT, convert.key) == results[convert.key]
    more = built({"spec.export.quantizations": ["Q4_K_M", "Q8_0"]})
    assert planned_on(volume, more)[0].next.name is StageName.CONVERT  # type: ignore[union-attr]
    again = carried_out_on(volume, more)
    assert again.next is None
    assert again.stage(StageName.TRAIN).units == before.stage(StageName.TRAIN).units


def test_a_second_time(volume: Volume) -> None:
    """A second clean-up finds nothing more to do."""
    carried_out_on(volume, built())
    item = observed(applied(), volume)
    aged(volume)
    clean_up(volume, item)
    aged(volume)
    collector = Collector(volume, lambda: [needs_of(item)], grace=DAY, keep_logs=2)
    assert all(verdict.keeps for verdict in collector.verdicts())


def test_shared_work(volume: Volume) -> None:
    """What two jobs share stays as long as one of them is there."""
    other = {"metadata.name": "other", "spec.ollama.model": "other:v1"}
    carried_out_on(volume, built())
    carried_out_on(volume, built(other))
    aged(volume)
    clean_up(volume, observed(applied(other, name="other"), volume))
    assert planned_on(volume, built(other))[0].stage(StageName.TRAIN).missing == ()


def test_a_job_that_comes_meanwhile(volume: Volume) -> None:
    """A job that is created after the marking keeps what it uses: that is asked right before anything goes."""
    carried_out_on(volume, built())
    aged(volume)
    train = next(volume.units(StageName.TRAIN).iterdir())

    def comes() -> None:
        volume.note_use(train)

    assert "it is needed now" in clean_up(volume, meanwhile=comes)
    assert (train / "result.json").is_file()


def test_jobs_that_cannot_be_asked_for_any_more(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the jobs cannot be listed in the middle of it, nothing further goes."""
    monkeypatch.setattr("tunesmith.housekeeping.collecting._ASK_AGAIN", -1.0)
    carried_out_on(volume, built())
    aged(volume)
    answers: Iterator[list[Needs]] = iter([[], []])

    def needs() -> list[Needs]:
        try:
            return next(answers)
        except StopIteration:
            raise ConnectionError("gone") from None

    collector = Collector(volume, needs, grace=DAY, keep_logs=2)
    verdicts = collector.verdicts()
    removals = collector.remove(verdicts)
    assert next(removals).removed
    before = tree(volume.root)
    with pytest.raises(ConnectionError):
        next(removals)
    assert tree(volume.root) == before


def test_two_at_once(volume: Volume) -> None:
    """Two clean-ups of one volume do not hurt each other: what one has removed is gone for the other."""
    carried_out_on(volume, built())
    aged(volume)
    first, second = (Collector(volume, list, grace=DAY, keep_logs=2) for _ in range(2))
    planned = first.verdicts(), second.verdicts()
    one, two = first.remove(planned[0]), second.remove(planned[1])
    ended = object()
    outcomes = []
    while (outcome := next(one, ended)) is not ended:
        outcomes.append(outcome)
        outcomes.append(next(two, ended))
    assert not any(getattr(outcome, "is_failure", False) for outcome in outcomes)
    assert tree(volume.root) == set()


@pytest.mark.parametrize("place", ["stages", "stages/train", "store/models", "runs", "store"])
def test_links(tmp_path: Path, place: str) -> None:
    """A folder of ours that is a link is not followed, wherever it leads."""
    volume, elsewhere = Volume(tmp_path / "volume"), tmp_path / "elsewhere"
    carried_out_on(volume, built())
    (volume.root / place).rename(elsewhere)
    (volume.root / place).symlink_to(elsewhere)
    aged(volume)
    aged(Volume(elsewhere))
    before = tree(elsewhere)
    clean_up(volume)
    assert tree(elsewhere) == before


def test_a_link_among_results(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A link with the name of a result is nobody's, and one inside of a result is removed without what it leads to."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").write_text("x")
    volume.units(StageName.TRAIN).mkdir(parents=True)
    volume.unit(StageName.TRAIN, KEY).symlink_to(outside)
    inside = volume.unit(StageName.TRAIN, "b" * 64)
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    aged(volume)
    clean_up(volume)
    assert tree(outside) == {"precious"}
    assert volume.unit(StageName.TRAIN, KEY).is_symlink()
    assert not inside.exists()


def test_what_may_not_be_removed(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be removed is told, and the rest goes all the same."""
    carried_out_on(volume, built())
    aged(volume)
    refused = volume.units(StageName.TRAIN)
    rename = Path.rename

    def deny(path: Path, target: Path) -> Path:
        if path.parent == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", deny)
    assert clean_up(volume) == ["Permission denied"]
    assert {path.split("/")[1] for path in tree(volume.root) if path.startswith("stages/")} == {"train"}


def test_files_that_nfs_keeps(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is open somewhere stays on NFS under another name; the next clean-up takes it."""
    carried_out_on(volume, built())
    aged(volume)
    rmdir, busy = os.rmdir, True

    def keep(path: Any, **more: Any) -> None:
        if busy and ".removed-" in str(path):
            raise OSError(39, "Directory not empty", str(path))
        rmdir(path, **more)

    monkeypatch.setattr(os, "rmdir", keep)
    assert clean_up(volume) == []
    assert any(".removed-" in path.name for path in volume.root.rglob("*"))
    busy = False
    clean_up(volume)
    assert not any(".removed-" in path.name for path in volume.root.rglob("*"))


def test_logs_of_a_live_job(volume: Volume) -> None:
    """Of a job that is there the newest logs stay."""
    carried_out_on(volume, built())
    for number in range(2, 6):
        path = write_log(volume, "support-bot", StageName.TRAIN, f"support-bot-train-{number}")
        os.utime(path, (number, number))
    item = observed(applied(), volume)
    os.utime(volume.log("support-bot", StageName.TRAIN, "support-bot-train-1"), (1, 1))
    clean_up(volume, item)
    names = {path.name for path in volume.logs("support-bot").glob("train.*")}
    assert names == {"train.support-bot-train-4.log", "train.support-bot-train-5.log"}


def test_a_run_after_a_clean_up(volume: Volume) -> None:
    """For `tunesmith run` nothing is to be done after a clean-up, until something is to be made of what is gone."""
    carried_out_on(volume, built())
    item = observed(applied(), volume)
    before = current_plan(built(), volume)
    assert before[0].next is None
    aged(volume)
    clean_up(volume, item)
    assert current_plan(built(), volume) == before
    more = current_plan(built({"spec.export.quantizations": ["Q4_K_M", "Q8_0"]}), volume, rehearsed=True)[0]
    assert more.next is not None
    assert more.next.name is StageName.CONVERT
    assert more.stage(StageName.TRAIN).missing == ()


def test_a_stage_leaves_a_trace(volume: Volume) -> None:
    """A stage program that takes something from the volume leaves a trace on it and on all that it found."""
    done = carried_out_on(volume, built())
    (train,), (convert,) = done.stage(StageName.TRAIN).units, done.stage(StageName.CONVERT).units
    aged(volume)
    later = later_units(built(), StageName.TRAIN)
    known = {role: item for unit in (train, convert) for role, item in unit.inputs.items()}
    config = StageConfig(StageName.TRAIN, "other", str(volume.root), "1", (train,), later=later, known=known)
    findings = Findings(config, volume)
    result = volume.result(StageName.TRAIN, train.key)
    assert result is not None
    findings.add(train, train, result, cached=True)
    found = findings.report().units
    assert len(found) == 3
    collector = Collector(volume, list, grace=DAY, keep_logs=2)
    kept = {verdict.entry.stage for verdict in collector.verdicts() if verdict.keeps}
    assert kept == {StageName.TRAIN, StageName.CONVERT, StageName.QUANTIZE}
    require_inputs(volume, convert, Progress(StageName.CONVERT, "x", volume.root / "progress"), patience=0.0)
    kept = {verdict.entry.path.split("/")[1] for verdict in collector.verdicts() if verdict.keeps}
    assert kept == {StageName.PREPARE, StageName.TRAIN, StageName.CONVERT, StageName.QUANTIZE, "models"}
