"""`tunesmith render`: what the operator would create for a FineTuneJob, as YAML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from tunesmith import __version__
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.kube_yaml import dump
from tunesmith.api.settings import Settings
from tunesmith.cli.reading import fail, read_job, read_settings
from tunesmith.core.manifests import ManifestError, child_manifests
from tunesmith.core.manifests.paper import children_on_paper
from tunesmith_stages.contract import ExitCode, StageName

_ON_PAPER = """\
# On paper: the digests of earlier stages and the owner's uid are not known. Made-up ones stand in for them.
"""
_NO_SETTINGS = """\
# No settings were given: what is built in is used, and the addresses of Ollama servers are made up.
"""


def render(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The FineTuneJob's YAML file; - reads standard input.")],
    settings: Annotated[
        Path | None, typer.Option("--settings", help="YAML file with the operator's settings. Default: built-in ones.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Default: the FineTuneJob's own, or `default`.")
    ] = None,
    stage: Annotated[StageName | None, typer.Option("--stage", help="Show this stage only.")] = None,
) -> None:
    """Print the Kubernetes objects that the operator would create for a FineTuneJob, stage by stage."""
    job, _ = read_job(file)
    given = read_settings(settings) if settings is not None else None
    try:
        shown = list(documents(job, given, namespace=namespace, stage=stage))
    except ManifestError as error:
        fail(f"{file}: {error.message}.", error.hint, ExitCode.BAD_CONFIG)
    print("".join(shown), end="")


def documents(
    job: FineTuneJob, settings: Settings | None = None, *, namespace: str | None = None, stage: StageName | None = None
) -> Iterator[str]:
    """Yield a YAML document for each object that the operator would create for a job, in that order.

    Args:
        job: what is wanted.
        settings: the operator's; None for those that are built in.
        namespace: where it would run; None for the job's own, or `default`.
        stage: of this stage only.

    Raises:
        ManifestError: no pods can be made of it as it stands.
    """
    comment = _ON_PAPER if settings is not None else _ON_PAPER + _NO_SETTINGS
    settings = settings or _built_in_settings(job)
    place = namespace or job.metadata.namespace or "default"
    for child in children_on_paper(job, place, settings.stage_image):
        if stage in (None, child.stage.name):
            for manifest in child_manifests(child, settings):
                yield f"---\n{comment}{dump(manifest)}"


def _built_in_settings(job: FineTuneJob) -> Settings:
    """Return settings for somebody who has none: the servers that the job names exist, at addresses that do not."""
    servers = [{"name": name, "url": f"http://{name}.invalid:11434"} for name in job.spec.ollama.servers]
    image = f"tunesmith-stages:{__version__}"
    trackers = {"mlflow": "http://mlflow.invalid:5000", "weightsAndBiases": "http://wandb.invalid:8080"}
    return Settings.model_validate({"stageImage": image, "servers": servers, "trackers": trackers})
