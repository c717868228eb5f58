"""The sources of a job on this machine: their versions, and what the job's own file brings along."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.core.plan import source_specs
from tunesmith_stages.contract import KEY_DIGITS, Report, StageConfig, StageName, UnitConfig, content_key
from tunesmith_stages.volume import Volume, write_whole

RUN_FILE = "run.json"
"""What makes up a job, in the job's folder below ``runs/``."""

ConfigMaps = Mapping[str, Mapping[str, str]]
"""Texts by key, by the ConfigMap's name."""


class ConfigMapMissingError(Exception):
    """A dataset names a ConfigMap that is not in the job's file."""


def source_versions(job: FineTuneJob, volume: Volume, *, refresh: bool = False) -> dict[str, str]:
    """Return, by unit of `fetch`, a text that changes when that source is another one.

    What lies on the volume is looked at (see :meth:`Volume.version`); if it is gone it has the version under which it
    was fetched, because what was made of it is still there. Everything else was looked up once, and is looked up again
    when the job names another source, or with `refresh`.
    """
    sources = {"base": job.spec.model.volume or job.spec.model.gguf}
    sources |= {f"dataset:{item.name}": item.volume for item in job.spec.datasets}
    here = {unit: source.path for unit, source in sources.items() if source is not None}
    versions = {} if refresh else _remembered(job, volume)
    return versions | {unit: version for unit, path in here.items() if (version := volume.version(path))}


def _remembered(job: FineTuneJob, volume: Volume) -> dict[str, str]:
    """Return the versions that the last run found, of the sources that the job still names."""
    try:
        run = json.loads((volume.run(job.metadata.name) / RUN_FILE).read_text(encoding="utf-8"))
        versions, specs = run["sourceVersions"], run["sources"]
        return {
            unit: str(versions[unit])
            for unit, spec in source_specs(job).items()
            if specs.get(unit) == spec and unit in versions
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def found_versions(config: StageConfig, report: Report) -> dict[str, str]:
    """Return the versions that `fetch` found, by unit."""
    found = {unit.key: unit.version for unit in report.units}
    versions = ((unit.name, found.get(unit.key[:KEY_DIGITS], "")) for unit in config.units)
    return {name: version for name, version in versions if version}


def resolved_key(unit: UnitConfig, version: str) -> str:
    """Return the key of a source of that version, under which its result lies."""
    return content_key(StageName.FETCH, {**unit.params, "refresh": version}, unit.inputs) if version else unit.key


def source_runtime(job: FineTuneJob, volume: Volume, config_maps: ConfigMaps) -> dict[str, Any]:
    """Return what `fetch` is told on this machine; tokens are those of the environment.

    Raises:
        ConfigMapMissingError: a dataset names a ConfigMap, or a key, that is not there.
    """
    files = {}
    for dataset in job.spec.datasets:
        source = dataset.config_map
        if source is None:
            continue
        text = config_maps.get(source.name, {}).get(source.key)
        if text is None:
            raise ConfigMapMissingError(
                f"dataset `{dataset.name}`: the job's file holds no ConfigMap `{source.name}` with a key `{source.key}`"
            )
        folder = volume.run(job.metadata.name) / "config-maps" / source.name
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / source.key, text)
        files[f"dataset:{dataset.name}"] = str(folder / source.key)
    return {"resolve": True, "tokens": {}, "configMaps": files}
