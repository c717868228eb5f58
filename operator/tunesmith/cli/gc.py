"""`tunesmith gc`: what of a volume no job needs any more, and its removal."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tunesmith.cli.gc_shown import Outcome, show_plan, show_removal, show_summary
from tunesmith.cli.reading import fail
from tunesmith.core.retention import Needs
from tunesmith.housekeeping.collecting import Collector
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.volume import Volume

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_REFUSED = (401, 403)


def _seconds(text: str) -> int:
    named = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if named is None:
        raise typer.BadParameter(f"{text!r} must be a number with s, m, h or d, such as 72h")
    return int(named[1]) * _UNITS[named[2]]


def gc(
    volume: Annotated[
        Path | None,
        typer.Option(
            "--volume",
            envvar="TUNESMITH_VOLUME",
            file_okay=False,
            help="The volume, wherever it is mounted. Default: the current folder.",
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            help="Ask the cluster for the FineTuneJobs of this namespace; in a pod, of its own. Without a cluster the "
            "jobs are those that `tunesmith run` has run here.",
        ),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it. Without this, nothing is changed.")] = False,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="Nothing goes that was used within this time: 30m, 72h, 7d.")
    ] = "72h",
    keep_logs: Annotated[
        int, typer.Option("--keep-logs", min=1, max=1000, help="Attempts whose logs stay, for each stage of a job.")
    ] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found and done as JSON.")] = False,
    summary: Annotated[
        Path | None, typer.Option("--summary", metavar="FILE", help="Also write a short summary there, as JSON.")
    ] = None,
) -> None:
    """Show what on a volume no job needs any more, and how much room it takes. With --delete, remove it.

    What people put on the volume is never touched, and neither is what a job that is not finished may need.
    """
    seconds = _seconds(grace)
    place = _volume(volume)
    console = Console(emoji=False, stderr=as_json)
    outcome = Outcome(deletes=delete)
    with _Told(place, outcome, summary):
        collector = Collector(place, _jobs(place, namespace), grace=seconds, keep_logs=keep_logs)
        outcome.verdicts = collector.verdicts()
        show_plan(console, outcome, grace)
        for removal in collector.remove(outcome.verdicts) if delete else ():
            outcome.removals.append(removal)
            show_removal(console, removal)
        outcome.is_whole = True
    if as_json:
        print(json.dumps(outcome.as_json(place), indent=2))
    show_summary(console, outcome)
    if outcome.failed:
        raise SystemExit(ExitCode.TEMPORARY)


# --- which jobs there are --------------------------------------------------------------------------------------------


def _jobs(volume: Volume, namespace: str | None) -> Callable[[], list[Needs]]:
    """Return a function that tells what every job needs; each call asks anew."""
    from tunesmith.housekeeping.jobs import require_only_runs, run_needs  # noqa: PLC0415 - it loads a client

    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    if namespace is None and not in_pod:

        def only_runs() -> list[Needs]:
            require_only_runs(volume)
            return run_needs(volume)

        return only_runs
    asked = namespace or _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    return lambda: [*asyncio.run(_ask(asked, in_pod=in_pod)), *run_needs(volume)]


async def _ask(namespace: str, *, in_pod: bool) -> list[Needs]:
    from tunesmith.housekeeping.jobs import JobsUnknownError, cluster_needs  # noqa: PLC0415
    from tunesmith.kube.client import connect  # noqa: PLC0415
    from tunesmith.kube.kubeconfig import connect_to, find_context  # noqa: PLC0415

    context = connect() if in_pod else connect_to(find_context(None, None, os.environ))
    async with context as cluster:
        found = await cluster_needs(cluster, namespace)
    if not found and not in_pod:  # the API server knows no namespaces by their typing errors
        raise JobsUnknownError(
            f"the namespace {namespace} has no FineTuneJob",
            "Is it the right one? If all of its FineTuneJobs are deleted, the chart's CronJob removes what they made.",
        )
    return found


class _Told:
    """Ends the command in words if something is in the way, and leaves the summary however it ends."""

    def __init__(self, volume: Volume, outcome: Outcome, summary: Path | None) -> None:
        self._volume = volume
        self._outcome = outcome
        self._summary = summary

    def __enter__(self) -> None:
        """Nothing is to be done yet."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._summary is not None:
            self._summary.write_text(json.dumps(self._outcome.as_summary()), encoding="utf-8")
        if error is not None:
            self._explain(error)

    def _explain(self, error: BaseException) -> None:
        from kubernetes.aio.config import ConfigException  # noqa: PLC0415

        from tunesmith.housekeeping.jobs import JobsUnknownError  # noqa: PLC0415
        from tunesmith.kube.cluster import ApiError  # noqa: PLC0415
        from tunesmith.kube.kubeconfig import KubeconfigError  # noqa: PLC0415

        far = " Nothing more was removed." if self._outcome.removals else " Nothing was removed."
        match error:
            case JobsUnknownError():
                fail(f"{_sentence(error)}{far}", error.hint, ExitCode.BAD_CONFIG)
            case ApiError():
                code = ExitCode.NO_PERMISSION if error.status in _REFUSED else ExitCode.UNAVAILABLE
                what = f"The FineTuneJobs cannot be listed, so nobody knows what is needed: {error}."
                fail(what + far, "It needs the right to list finetunejobs there, and an API server that answers.", code)
            case KubeconfigError() | ConfigException():
                fail(f"{_sentence(error)}{far}", "Set KUBECONFIG to a cluster's kubeconfig.", ExitCode.BAD_CONFIG)
            case PermissionError():
                hint = f"Run it as a user who may read and write all of {self._volume.root}."
                fail(f"The volume may not be read: {error}.{far}", hint, ExitCode.NO_PERMISSION)
            case OSError():
                fail(f"The volume cannot be read: {error}.{far}", "Try it again.", ExitCode.TEMPORARY)


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _volume(given: Path | None) -> Volume:
    folder = Path.cwd() if given is None else given
    if not folder.is_dir():
        fail(f"The volume {folder} is not there.", "Name the folder with --volume.", ExitCode.MISSING_INPUT)
    return Volume(folder)
