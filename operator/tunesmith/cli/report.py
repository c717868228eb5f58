"""`tunesmith report`: what was found, made and proven for a job, as a page or as text."""

from __future__ import annotations

import difflib
import errno
import shutil
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.reading import fail, read_job
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.report import Facts, gather, is_name, page_of, summary_of, text_of
from tunesmith_stages.volume import Volume, write_whole

_FILES = (".yaml", ".yml", ".json")
_NARROWEST, _WIDEST = 60, 120


def report(
    target: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="The FineTuneJob's YAML file, or the name of the job.")
    ],
    volume: Annotated[
        Path | None,
        typer.Option(
            "--volume",
            envvar="TUNESMITH_VOLUME",
            file_okay=False,
            help="The volume, wherever it is mounted. Default: the folder of FILE, or the current one.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the page there; - prints it. Default: the job's folder."),
    ] = None,
    as_text: Annotated[bool, typer.Option("--text", help="Print the whole report as text; writes nothing.")] = False,
) -> None:
    """Tell what was found, made and proven for a job: data, preflight, training, sizes, answers, lineage.

    A page of HTML is written that needs nothing else, and a summary printed. Nothing is run. A job that failed, or is
    not finished, has a report too.
    """
    if as_text and output is not None:
        fail("--text and --output exclude each other.", "Give one of them.", ExitCode.BAD_CONFIG)
    place, job = _asked_for(target, volume)
    facts = _gathered(place, job)
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((100, 24)).columns))
    if as_text:
        print(text_of(facts, width), end="")
    elif str(output) == "-":
        print(page_of(facts), end="")
    else:
        path = _write(facts, output)
        print("\n".join([*summary_of(facts, width), f"report: {path}"]))


def _asked_for(target: str, folder: Path | None) -> tuple[Volume, str]:
    """Return the volume and the name of the job. Exit if there is no such file or folder."""
    is_file = target == "-" or "/" in target or target.endswith(_FILES) or _is_there(target)
    job = read_job(Path(target))[0].metadata.name if is_file else target
    if not is_name(job):
        fail(f"{job!r} is no name of a job.", "Give its name, or the path of its YAML file.", ExitCode.BAD_CONFIG)
    default = Path(target).parent if is_file and target != "-" else Path.cwd()
    root = default if folder is None else folder
    if not root.is_dir():
        fail(f"The volume {root} is not there.", "Name the folder with --volume.", ExitCode.MISSING_INPUT)
    return Volume(root), job


def _is_there(target: str) -> bool:
    try:
        return Path(target).is_file()
    except OSError:  # no file can have such a name
        return False


def _gathered(volume: Volume, job: str) -> Facts:
    """Return what is known of a job. Exit if it is nothing, or the volume cannot be read."""
    try:
        facts = gather(volume, job)
        near = _jobs_near(volume, job) if facts is None else ""
    except OSError as error:
        fail(f"The volume cannot be read: {error}.", f"Open {volume.root} to this user.", ExitCode.NO_PERMISSION)
    if facts is None:
        fail(f"The volume {volume.root} has nothing of a job {job}.", near, ExitCode.MISSING_INPUT)
    return facts


def _jobs_near(volume: Volume, job: str) -> str:
    """Return what to do about a job that is not known."""
    runs = volume.run(job).parent
    names = sorted(place.name for place in runs.iterdir() if place.is_dir()) if runs.is_dir() else []
    if not names:
        return "It holds no job at all: name the right folder with --volume."
    near = difflib.get_close_matches(job, names, n=1)
    known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return (f"Did you mean {near[0]}? " if near else "") + f"It knows: {known}."


def _write(facts: Facts, output: Path | None) -> Path:
    """Write the page; return where it is. Exit if it cannot be written."""
    path = facts.volume.report_page(facts.job) if output is None else output
    try:
        if output is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, page_of(facts))
        else:
            path.write_text(page_of(facts), encoding="utf-8")
    except OSError as error:
        refused, full = {errno.EACCES, errno.EPERM}, {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
        code = ExitCode.NO_SPACE if error.errno in full else ExitCode.BAD_CONFIG
        code = ExitCode.NO_PERMISSION if error.errno in refused else code
        fail(f"The page cannot be written to {path}: {error.strerror}.", "Name another file with --output.", code)
    return path
