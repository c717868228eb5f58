"""Which jobs there are, and what each needs: asked of the API server, and read from the runs of `tunesmith run`.

Who cannot tell raises: without a list of the jobs nothing is removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from tunesmith.api.keys import KIND
from tunesmith.core.needs import needs_of, needs_of_run
from tunesmith.core.retention import Needs
from tunesmith.housekeeping.inventory import held_keys, job_folders, tries
from tunesmith.kube.cluster import FINETUNEJOBS, Cluster
from tunesmith.local.lock import is_held
from tunesmith.local.sources import RUN_FILE
from tunesmith_stages.contract import StageName
from tunesmith_stages.report.attempt import last_attempts
from tunesmith_stages.volume import Volume

_LOCAL_ATTEMPT = re.compile(r"[0-9]{8}T[0-9]+-[0-9]+")
"""As `tunesmith run` names its tries; an operator names them after pods."""


class JobsUnknownError(Exception):
    """It cannot be told which jobs there are.

    Attributes:
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


async def cluster_needs(cluster: Cluster, namespace: str) -> list[Needs]:
    """Return what the FineTuneJobs of a namespace need, those that are being deleted included.

    On whichever volume each works does not matter: to keep for one that works elsewhere does no harm.

    Raises:
        ApiError: they cannot be listed.
    """
    return (await cluster.list_all(FINETUNEJOBS, namespace, needs_of)).items


def run_needs(volume: Volume) -> list[Needs]:
    """Return what the jobs need that were run here by `tunesmith run`; each lives as long as its folder in ``runs``.

    Raises:
        OSError: they cannot be read.
    """
    return [_of_run(volume, name) for name in job_folders(volume) if _was_run_here(volume, name)]


def require_only_runs(volume: Volume) -> None:
    """Check that every job that the volume knows was run by `tunesmith run`, so that its folder tells what it needs.

    Raises:
        JobsUnknownError: some were run on a cluster, which alone knows whether they are still there.
    """
    folders = job_folders(volume)
    others = {name for name in folders if not _was_run_here(volume, name) or _was_on_a_cluster(volume, name)}
    others |= {job for job, attempt in tries(volume) if not _LOCAL_ATTEMPT.fullmatch(attempt)}
    if others:
        named = ", ".join(sorted(others)[:5]) + (", ..." if len(others) > 5 else "")
        raise JobsUnknownError(
            f"the volume holds work of FineTuneJobs on a cluster ({named}), and the cluster was not asked for them",
            "Name their namespace: `tunesmith gc --namespace NAMESPACE`.",
        )


def held_now(volume: Volume) -> set[str]:
    """Return the keys that a process works on now, on this machine or on one that cannot be looked at from here."""
    return {key for key, lock in held_keys(volume).items() if is_held(lock)}


def _was_run_here(volume: Volume, job: str) -> bool:
    folder = volume.run(job)
    return any((folder / name).is_file() for name in (RUN_FILE, "finetunejob.yaml", "lock.json"))


def _was_on_a_cluster(volume: Volume, job: str) -> bool:
    return any(not _LOCAL_ATTEMPT.fullmatch(one.config.attempt) for one in last_attempts(volume, job))


def _of_run(volume: Volume, job: str) -> Needs:
    run = _run_of(volume, job)
    stages = run.get("stages")
    registered = stages.get(StageName.REGISTER) if isinstance(stages, dict) else None
    made = isinstance(registered, dict) and bool(registered)
    is_over = (
        made
        and all(volume.result(StageName.REGISTER, str(key)) is not None for key in registered.values())  # type: ignore[union-attr]
        and not is_held(volume.run(job) / "lock.json")
    )
    return needs_of_run(job, run, _spec_of(volume, job), registered=is_over)


def _run_of(volume: Volume, job: str) -> Mapping[str, Any]:
    try:
        run = json.loads((volume.run(job) / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return run if isinstance(run, dict) else {}


def _spec_of(volume: Volume, job: str) -> Mapping[str, Any]:
    """Return the spec of the job as it was run last. One that cannot be read lets nothing go that was ever made."""
    try:
        documents: Iterable[Any] = list(
            yaml.safe_load_all((volume.run(job) / "finetunejob.yaml").read_text(encoding="utf-8"))
        )
    except (FileNotFoundError, ValueError, RecursionError, yaml.YAMLError):
        documents = ()
    jobs = [one["spec"] for one in documents if isinstance(one, dict) and one.get("kind") == KIND and "spec" in one]
    return jobs[0] if jobs and isinstance(jobs[0], dict) else {"storage": {"retention": "unreadable"}}
