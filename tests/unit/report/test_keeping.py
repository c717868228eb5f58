"""What a stage program leaves in the job's folder at its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.builders import stage_config
from support.reported import ReadPage, whole_job
from tunesmith_stages.contract import ExitCode, Failure, StageConfig, StageName
from tunesmith_stages.program import Made, StageError, Work, run
from tunesmith_stages.report.attempt import Attempt, last_attempts
from tunesmith_stages.volume import Volume


def works(work: Work) -> Made:
    (work.out / "file").write_text("made")
    return Made(numbers={"rows": 3})


def fails(_work: Work) -> Made:
    raise StageError(ExitCode.BAD_DATA, "row 3 is empty", reason="BadRow", hint="Mend it.")


def config_on(root: Path) -> StageConfig:
    return stage_config(root, StageName.PREPARE)


def page_on(root: Path) -> ReadPage:
    return ReadPage(Volume(root).report_page("support-bot").read_text(encoding="utf-8"))


def test_program_leaves_the_page(tmp_path: Path) -> None:
    """When a stage is done, its job has a page that says so."""
    assert run(config_on(tmp_path), works) == ExitCode.OK
    (attempt,) = last_attempts(Volume(tmp_path), "support-bot")
    assert attempt.failure is None
    assert attempt.started <= attempt.finished
    assert "Done up to prepare." in page_on(tmp_path).texts[""]


def test_program_that_fails_leaves_the_page(tmp_path: Path) -> None:
    """The page of a job that failed says why, and what to do."""
    assert run(config_on(tmp_path), fails) == ExitCode.BAD_DATA
    stages = page_on(tmp_path).texts["stages"]
    assert "row 3 is empty" in stages
    assert "Mend it." in stages


def test_attempt_that_goes_on_is_recorded(tmp_path: Path) -> None:
    """While a program runs its attempt has no end: that is what a killed one leaves."""
    seen: list[Attempt] = []

    def looks(work: Work) -> Made:
        seen.extend(last_attempts(work.volume, "support-bot"))
        return works(work)

    run(config_on(tmp_path), looks)
    assert [(attempt.finished, attempt.failure) for attempt in seen] == [("", None)]


def test_next_attempt_takes_the_place_of_the_last(tmp_path: Path) -> None:
    """What failed and then went well is told as done."""
    run(config_on(tmp_path), fails)
    run(stage_config(tmp_path, StageName.PREPARE, attempt="2"), works)
    assert "row 3 is empty" not in page_on(tmp_path).texts["stages"]


def test_page_that_cannot_be_written_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The stage has its result all the same, and its log says what is missing."""
    (tmp_path / "runs").write_text("in the way")
    assert run(config_on(tmp_path), works) == ExitCode.OK
    assert "the report page was not written" in caplog.text or "is not kept in" in caplog.text


def test_attempt_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Everything of an attempt comes back."""
    failure = Failure(ExitCode.BAD_DATA, "BadRow", "row 3", "Mend it.")
    attempt = Attempt(config_on(tmp_path), "2026-01-02T03:04:05.000Z", "2026-01-02T03:04:06.000Z", failure)
    assert Attempt.from_json(attempt.to_json()) == attempt


# --- the program that prints it --------------------------------------------------------------------------------------


def printed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tunesmith_stages.report", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def test_program_prints_the_report(tmp_path: Path) -> None:
    """Where the volume is, the report can be had as a page and as text, and nothing is written."""
    volume = whole_job(tmp_path / "volume").volume
    before = sorted(volume.root.rglob("*"))
    page = printed("--volume", volume.root, "--job", "support-bot")
    assert page.returncode == 0
    assert "Succeeded" in ReadPage(page.stdout).texts[""]
    assert printed("--volume", volume.root, "--job", "support-bot", "--text").stdout.startswith("support-bot: Succeed")
    assert sorted(volume.root.rglob("*")) == before


REFUSED = {
    "unknown job": (["--job", "other"], ExitCode.MISSING_INPUT, "JobNotFound: nothing of a job 'other'"),
    "name that leads elsewhere": (["--job", "../other"], 2, "must consist of letters"),
    "no volume": (["--job", "other", "--volume", "/none"], ExitCode.BAD_CONFIG, "VolumeNotFound"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_program_says_what_is_missing(tmp_path: Path, name: str) -> None:
    """A job or a volume that is not there is named, with the exit code of its class."""
    arguments, code, words = REFUSED[name]
    done = printed("--volume", tmp_path, *arguments)
    assert done.returncode == code
    assert words in done.stderr
