"""The commands. Each reads a file, calls one function of the packages below, and shows what came back."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunesmith import __version__
from tunesmith.api.crd import custom_resource_definition
from tunesmith.api.kube_yaml import dump
from tunesmith.api.parse import parse_job_file
from tunesmith.cli.gc import gc
from tunesmith.cli.live import LiveView
from tunesmith.cli.operate import operator
from tunesmith.cli.reading import fail, read_job
from tunesmith.cli.render import render
from tunesmith.cli.report import report
from tunesmith.core.model import Plan, StageState
from tunesmith.local.gpus import GpuMissingError
from tunesmith.local.lock import AlreadyRunningError
from tunesmith.local.process import StageFailedError
from tunesmith.local.run import current_plan, run_job
from tunesmith.local.served import ollama_url
from tunesmith.local.sources import ConfigMapMissingError, source_versions
from tunesmith.local.tracking import TrackerNotSetUpError
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.report import keep_page
from tunesmith_stages.volume import Volume

app = typer.Typer(
    name="tunesmith",
    help="From a FineTuneJob in YAML to a fine-tuned model that answers in Ollama.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

app.command()(render)
app.command()(report)
app.command()(gc)
app.command()(operator)

JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="The FineTuneJob's YAML file; - reads standard input.")]
VolumeFolder = Annotated[
    Path | None,
    typer.Option(
        "--volume",
        envvar="TUNESMITH_VOLUME",
        file_okay=False,
        help="Folder that stands for the cluster's volume: sources are looked up in it, everything made lies in it. "
        "Default: the folder of FILE.",
    ),
]
Until = Annotated[StageName | None, typer.Option("--until", help="Stop after this stage.", case_sensitive=False)]


_EXIT_CODES = {
    errno.ENOSPC: ExitCode.NO_SPACE,
    errno.EDQUOT: ExitCode.NO_SPACE,
    errno.EROFS: ExitCode.NO_SPACE,
    errno.EACCES: ExitCode.NO_PERMISSION,
    errno.EPERM: ExitCode.NO_PERMISSION,
    errno.EIO: ExitCode.TEMPORARY,
}
"""Exit code by what the volume's file system answers to the run's own notes."""


@app.command()
def run(
    file: JobFile,
    volume: VolumeFolder = None,
    until: Until = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Stop before the training: sources, data and server are proven.")
    ] = False,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh",
            help="Look up again what was looked up once: the newest commit of a branch, what another job has trained.",
        ),
    ] = False,
) -> None:
    """Run a FineTuneJob on this machine. What was done before is not done again.

    The model is registered with the Ollama server at OLLAMA_HOST (default: 127.0.0.1:11434).
    """
    console = Console(emoji=False)
    job, text = read_job(file)
    config_maps = parse_job_file(text)[1]
    if importlib.util.find_spec("torch") is None:
        fail("The stage programs are not installed.", "pip install 'tunesmith[operator,stages]'", ExitCode.BAD_CONFIG)
    if dry_run and until is not None:
        fail("--dry-run and --until exclude each other.", "Give one of them.", ExitCode.BAD_CONFIG)
    if job.spec.suspend:
        fail("`spec.suspend` is true.", "Remove it, or set it to false.", ExitCode.BAD_CONFIG)
    if dry_run or (job.spec.dry_run and until is None):
        until = StageName.REHEARSE
    place = _volume(file, volume)
    with _told_in_words(place), LiveView(console) as view:
        url = ollama_url(os.environ)
        done = run_job(job, text, place, view, url=url, until=until, refresh=refresh, config_maps=config_maps)
    if done.next is None:
        console.print(f"[green]Done.[/] ollama run {escape(job.spec.ollama.model)}", highlight=False)
    page = keep_page(place, job.metadata.name)  # no program has made one, if all was there
    if page is not None:
        console.print(f"report: {escape(str(page))}", style="dim", soft_wrap=True, highlight=False)


@app.command()
def plan(
    file: JobFile,
    volume: VolumeFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what running a FineTuneJob would do, and what of it is done already. Changes nothing."""
    job, text = read_job(file)
    place = _volume(file, volume)
    versions = source_versions(job, place, config_maps=parse_job_file(text)[1])
    current, results = current_plan(job, place, versions=versions)
    if as_json:
        stages = [
            {
                "stage": stage.name,
                "state": stage.state,
                "units": [{"name": unit.name, "key": unit.key, "done": unit.key in results} for unit in stage.units],
            }
            for stage in current.stages
        ]
        print(json.dumps({"job": current.job, "stages": stages}, indent=2))
        return
    Console(emoji=False).print(_plan_table(current, set(results)))


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML files, each with one FineTuneJob.")],
) -> None:
    """Check FineTuneJobs without running anything."""
    worst = 0
    for file in files:
        try:
            job, _ = read_job(file)
        except SystemExit as stop:
            worst = max(worst, int(stop.code or 0))
            continue
        Console(emoji=False).print(
            f"[green]✓[/] {escape(str(file))}: FineTuneJob {escape(job.metadata.name)}",
            soft_wrap=True,
            highlight=False,
        )
    sys.exit(worst)


@app.command()
def crd() -> None:
    """Print the CustomResourceDefinition of FineTuneJob, as kubectl takes it."""
    print(dump(custom_resource_definition()), end="")


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Take the options that go with no command."""
    if version:
        print(__version__)
        sys.exit()


_TAIL_LINES = 10


def main() -> None:
    """Run the command line."""
    app()


# --- reading and showing ---------------------------------------------------------------------------------------------


@contextmanager
def _told_in_words(place: Volume) -> Iterator[None]:
    """Show whatever ends a run early, with the exit code of its class."""
    try:
        yield
    except StageFailedError as error:
        _show_failure(error)
        sys.exit(error.failure.code)
    except GpuMissingError as error:
        hint = "Lower it, set it to 0 to train on the CPU, or run this where so many GPUs are."
        fail(f"{error}.", hint, ExitCode.BAD_CONFIG)
    except ConfigMapMissingError as error:
        fail(f"{error}.", "Put the ConfigMap into the same file, as a document of its own.", ExitCode.MISSING_INPUT)
    except TrackerNotSetUpError as error:
        fail(f"{error}.", error.hint, ExitCode.BAD_CONFIG)
    except AlreadyRunningError as error:
        fail(f"{error}.", "Wait for it, or end it; what it finished is kept.", ExitCode.TEMPORARY)
    except OSError as error:
        code = _EXIT_CODES.get(error.errno or 0)
        if code is None:
            raise
        fail(f"The volume cannot be used: {error}.", f"Free, open or mend {place.root}, then run it again.", code)
    except KeyboardInterrupt:
        fail(
            "Stopped.",
            "Run the same command again: what is finished is kept, and a training goes on from its last checkpoint.",
            ExitCode.INTERRUPTED,
        )


def _volume(file: Path, given: Path | None) -> Volume:
    folder = given if given is not None else Path.cwd() if str(file) == "-" else file.parent
    if not folder.is_dir():
        fail(
            f"The volume {folder} is not there.", "Make the folder and put the sources into it.", ExitCode.MISSING_INPUT
        )
    return Volume(folder)


def _plan_table(current: Plan, done: set[str]) -> Table:
    table = Table("stage", "unit", "key", "state", box=None, pad_edge=False)
    for stage in current.stages:
        if not stage.units:
            why = "not needed" if stage.state is StageState.DONE else "waits for what is above"
            table.add_row(stage.name, "", "", why)
        for unit in stage.units:
            ready = "to do" if unit in stage.missing and unit.key not in done else "done"
            table.add_row(stage.name, escape(unit.name), unit.key[:12], ready)
    return table


def _show_failure(error: StageFailedError) -> None:
    console = Console(stderr=True, emoji=False)
    failure = error.failure
    said = failure.message.splitlines()
    tail = [line for line in error.tail if line.strip() and not any(part in line for part in said)]
    if tail:
        console.print(escape("\n".join(tail[-_TAIL_LINES:])), style="dim", soft_wrap=True, highlight=False)
    console.print(f"[red]✗ {error.stage}: {escape(failure.reason)}[/]", highlight=False)
    console.print(f"  {escape(failure.message)}", soft_wrap=True, highlight=False)
    console.print(f"  → {escape(failure.hint)}", soft_wrap=True, highlight=False)
    console.print(f"  log: {escape(str(error.log))}", style="dim", soft_wrap=True, highlight=False)
