"""The commands: each finds the cluster, calls one function of this package, and shows what came back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from tunesmith.api.values import SUBDOMAIN_PATTERN
from tunesmith.cli.kubectl import INTERRUPTED
from tunesmith.cli.kubectl.errors import SaidError, in_words
from tunesmith.cli.kubectl.finding import find
from tunesmith.cli.kubectl.logs import Wanted, show_logs
from tunesmith.cli.kubectl.page import page_of
from tunesmith.cli.kubectl.rendering import as_json, as_text, output, printable
from tunesmith.cli.kubectl.report import read_report
from tunesmith.cli.kubectl.watching import watch as watch_job
from tunesmith.kube.client import KubeCluster
from tunesmith.kube.cluster import ApiError
from tunesmith.kube.kubeconfig import KubeconfigError, connect_to, find_context
from tunesmith_stages.contract import StageName

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1
_TERMINATED = 128 + signal.SIGTERM
_NOBODY_READS = 128 + signal.SIGPIPE


def _name(text: str) -> str:
    if not re.fullmatch(SUBDOMAIN_PATTERN, text):
        raise typer.BadParameter(f"must consist of lower-case letters, digits, '-' and '.', got {text!r}")
    return text


def _attempt(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", text):
        raise typer.BadParameter(f"must be a number, or a name as `--list` gives it, got {text!r}")
    return text


class Format(StrEnum):
    """How `status` is printed."""

    TEXT = "text"
    JSON = "json"


Name = Annotated[str, typer.Argument(metavar="NAME", parser=_name, help="Name of the FineTuneJob.")]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", parser=_name, help="Default: that of the kubeconfig's context."),
]
ContextName = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig. Default: the current one.")
]
Kubeconfig = Annotated[
    Path | None, typer.Option("--kubeconfig", metavar="FILE", help="Default: KUBECONFIG, or ~/.kube/config.")
]


@app.callback()
def options(
    ctx: typer.Context, namespace: Namespace = None, context: ContextName = None, kubeconfig: Kubeconfig = None
) -> None:
    """See how FineTuneJobs stand, and what their stages print."""
    given = {"namespace": namespace, "context": context, "kubeconfig": kubeconfig}
    said = {name: value for name, value in given.items() if value is not None}
    ctx.default_map = dict.fromkeys(("status", "watch", "logs", "report"), said)  # what follows the verb goes before it


@app.command()
def status(
    name: Name,
    namespace: Namespace = None,
    context: ContextName = None,
    kubeconfig: Kubeconfig = None,
    form: Annotated[Format, typer.Option("--output", "-o", help="text or json.")] = Format.TEXT,
) -> None:
    """Show how a FineTuneJob stands: its stages, its progress, and what it made."""

    async def work(cluster: KubeCluster, place: str) -> int:
        page = page_of(await find(cluster, place, name), datetime.now(UTC))
        if form is Format.JSON:
            print(as_json(page))
        else:
            output().print(as_text(page))
        return 0

    _on_cluster(work, namespace, context, kubeconfig)


@app.command()
def watch(name: Name, namespace: Namespace = None, context: ContextName = None, kubeconfig: Kubeconfig = None) -> None:
    """Show a FineTuneJob until it is ready (exit code 0) or stalled (1)."""

    async def work(cluster: KubeCluster, place: str) -> int:
        ready = await watch_job(cluster, place, name, output(), lambda: datetime.now(UTC))
        return 0 if ready else _FAILED

    _on_cluster(work, namespace, context, kubeconfig)


@app.command()
def logs(
    name: Name,
    namespace: Namespace = None,
    context: ContextName = None,
    kubeconfig: Kubeconfig = None,
    stage: Annotated[
        StageName | None,
        typer.Option("--stage", help="Default: the one that runs, else the one that failed or ran last."),
    ] = None,
    attempt: Annotated[
        str | None,
        typer.Option(
            "--attempt", metavar="N", parser=_attempt, help="Number, or name from --list. Default: the newest."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the attempt ends.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", metavar="N", min=1, help="Only the last N lines.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Say which logs are kept on the volume.")] = False,
) -> None:
    """Print what a stage of a FineTuneJob prints or has printed.

    While its pods are there, it is read from them. When they are gone, a short-lived pod reads it from the volume.
    """
    if show_list and (attempt or follow or tail):
        raise typer.BadParameter("goes with `--stage` only", param_hint="--list")
    wanted = Wanted(stage, attempt, tail, follow, show_list)

    async def work(cluster: KubeCluster, place: str) -> int:
        await show_logs(cluster, place, name, wanted, sys.stdout.buffer, _note)
        return 0

    _on_cluster(work, namespace, context, kubeconfig)


@app.command()
def report(
    name: Name,
    namespace: Namespace = None,
    context: ContextName = None,
    kubeconfig: Kubeconfig = None,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the page there; - prints it. Default: NAME.html.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the report as text instead.")] = False,
) -> None:
    """Tell what was found, made and proven for a FineTuneJob, as a page of HTML or as text.

    A short-lived pod, which mounts the volume read-only, makes it from what lies there.
    """
    if text and to is not None:
        raise typer.BadParameter("goes without `--text`", param_hint="--output")

    async def work(cluster: KubeCluster, place: str) -> int:
        made = await read_report(cluster, place, name, as_text=text, tell=_note)
        if text or str(to) == "-":
            sys.stdout.buffer.write(made)
        else:
            _save(to or Path(f"{name}.html"), made)
        return 0

    _on_cluster(work, namespace, context, kubeconfig)


def _save(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise SaidError(f"{path} cannot be written: {error.strerror}.", "Name another file by `--output`.") from None
    _note(f"Written to {path}")


Work = Callable[[KubeCluster, str], Awaitable[int]]


def _on_cluster(work: Work, namespace: str | None, context: str | None, kubeconfig: Path | None) -> NoReturn:
    """Do `work` with the cluster and the namespace that are meant, and exit; what goes wrong is said in words."""
    try:
        code = asyncio.run(_connected(work, namespace, context, kubeconfig))
        sys.stdout.flush()
    except SaidError as error:
        _fail(error.what, error.hint)
    except KubeconfigError as error:
        _fail(f"No cluster: {error}.", "Choose one by `--kubeconfig`, KUBECONFIG or `--context`.")
    except asyncio.CancelledError:
        sys.exit(_TERMINATED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _NOBODY_READS
    sys.exit(code)


async def _connected(work: Work, namespace: str | None, context: str | None, kubeconfig: Path | None) -> int:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run made one
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    chosen = find_context(kubeconfig, context, os.environ)
    place = namespace or chosen.namespace
    async with connect_to(chosen) as cluster:
        try:
            return await work(cluster, place)
        except ApiError as error:
            raise in_words(error, cluster.client.configuration.host, place) from None


def _note(text: str) -> None:
    Console(stderr=True, emoji=False).print(Text(printable(text)), style="dim", soft_wrap=True, highlight=False)


def _fail(what: str, hint: str) -> NoReturn:
    console = Console(stderr=True, emoji=False, highlight=False)
    console.print(Text.assemble(("✗ ", "red"), printable(what)), soft_wrap=True)
    console.print(Text(f"  → {printable(hint)}"), soft_wrap=True)
    sys.exit(_FAILED)
