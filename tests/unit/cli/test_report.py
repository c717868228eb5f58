"""`tunesmith report`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from support.builders import job_text
from support.reported import ReadPage, whole_job
from tunesmith.cli.main import app
from tunesmith_stages.contract import ExitCode


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return whole_job(tmp_path / "volume").volume.root


def report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_page_is_kept_in_the_run(volume: Path) -> None:
    """Without --output the page of the job's folder is made anew, and the summary says how the job stands and where."""
    page = volume / "runs" / "support-bot" / "report.html"
    done = report("support-bot", "--volume", volume)
    assert done.exit_code == 0
    assert "support-bot: Succeeded\n" in done.stdout
    assert "run it: ollama run support-bot:v1\n" in done.stdout
    assert done.stdout.endswith(f"report: {page}\n")
    assert "Succeeded" in ReadPage(page.read_text(encoding="utf-8")).texts[""]


def test_page_goes_where_it_is_wanted(volume: Path, tmp_path: Path) -> None:
    """With --output the page is there, and the volume is left as it is."""
    before = sorted(volume.rglob("*"))
    assert report("support-bot", "--volume", volume, "--output", tmp_path / "page.html").exit_code == 0
    assert "Succeeded" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert sorted(volume.rglob("*")) == before
    assert report("support-bot", "--volume", volume, "-o", "-").stdout.startswith("<!DOCTYPE html>\n")


def test_job_by_its_file(volume: Path) -> None:
    """The YAML file names the job, and its folder is the volume where no other is given."""
    (volume / "job.yaml").write_text(job_text())
    done = report(volume / "job.yaml")
    assert done.exit_code == 0
    assert "support-bot: Succeeded\n" in done.stdout


def test_whole_report_as_text(volume: Path) -> None:
    """--text prints every section and writes nothing."""
    before = sorted(volume.rglob("*"))
    done = report("support-bot", "--volume", volume, "--text")
    assert done.exit_code == 0
    assert "\nPREFLIGHT\n" in done.stdout
    assert "»I am Tunny.<|im_end|>«" in done.stdout
    assert sorted(volume.rglob("*")) == before


REFUSED: dict[str, tuple[list[str], ExitCode, str]] = {
    "unknown job": (["support-bott"], ExitCode.MISSING_INPUT, "Did you mean support-bot? It knows: support-bot."),
    "name that leads elsewhere": ([".."], ExitCode.BAD_CONFIG, "'..' is no name of a job."),
    "name that no file can have": (["x" * 5000], ExitCode.BAD_CONFIG, "is no name of a job."),
    "file that is not there": (["job.yaml"], ExitCode.MISSING_INPUT, "No such file or directory"),
    "two forms at once": (["support-bot", "--text", "-o", "x"], ExitCode.BAD_CONFIG, "exclude each other"),
    "page that cannot be written": (
        ["support-bot", "-o", "/proc/none/page.html"],
        ExitCode.BAD_CONFIG,
        "cannot be written to /proc/none/page.html",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told(volume: Path, name: str) -> None:
    """Each with its exit code, and a sentence on what is wrong."""
    arguments, code, words = REFUSED[name]
    done = report(*arguments, "--volume", volume)
    assert done.exit_code == code
    assert words in done.stderr


def test_empty_folder_is_no_volume(tmp_path: Path) -> None:
    """Where no job is known at all the volume is probably another one, and that is said."""
    done = report("support-bot", "--volume", tmp_path)
    assert done.exit_code == ExitCode.MISSING_INPUT
    assert "It holds no job at all: name the right folder with --volume." in done.stderr
