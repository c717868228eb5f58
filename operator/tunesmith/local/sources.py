"""The sources of a job on this machine: their versions, and what the job's own file brings along."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.sources import ConfigMapSource
from tunesmith.core.plan import source_specs
from tunesmith_stages.contract import KEY_DIGITS, Report, StageConfig, StageName, UnitConfig, content_key, digest_of
from tunesmith_stages.volume import UnsafePathError, Volume, files_below, readable

RUN_FILE = "run.json"
"""What makes up a job, in the job's folder below ``runs/``."""

ConfigMaps = Mapping[str, Mapping[str, bytes]]
"""Contents by key, by the ConfigMap's name."""


class ConfigMapMissingError(Exception):
    """A dataset names a ConfigMap that is not in the job's file."""


def source_versions(
    job: FineTuneJob, volume: Volume, *, config_maps: ConfigMaps | None = None, refresh: bool = False
) -> dict[str, str]:
    """Return, by unit of `fetch`, a text that changes when that source is another one.

    What lies on the volume is looked at (see :meth:`Volume.version`), and so is a ConfigMap in the job's file; if it is
    gone it has the version under which it was fetched, because what was made of it is still there. Everything else was
    looked up once, and is looked up again when the job names another source, or with `refresh`. Where the entry of a
    dataset_info.json leads to is for `fetch` to look up, as soon as anything in its folder has changed.
    """
    run = _last_run(job, volume)
    versions = {} if refresh else _remembered(job, run)
    before = run.get("folders")
    for unit, now in named_folders(job, volume).items():
        if not isinstance(before, dict) or before.get(unit) != now:
            versions.pop(unit, None)
    sources = {"base": job.spec.model.volume or job.spec.model.gguf}
    sources |= {f"dataset:{item.name}": item.volume for item in job.spec.datasets if item.dataset_info is None}
    here = {unit: source.path for unit, source in sources.items() if source is not None}
    versions |= {unit: version for unit, path in here.items() if (version := volume.version(path))}
    contents = {f"dataset:{item.name}": _content_of(item.config_map, config_maps or {}) for item in job.spec.datasets}
    return versions | {
        unit: hashlib.sha256(content).hexdigest() for unit, content in contents.items() if content is not None
    }


def _content_of(source: ConfigMapSource | None, config_maps: ConfigMaps) -> bytes | None:
    return None if source is None else config_maps.get(source.name, {}).get(source.key)


def named_folders(job: FineTuneJob, volume: Volume) -> dict[str, str]:
    """Return, by unit, a text that changes with anything below the folder on the volume that has a dataset_info.json.

    A folder that is gone is left out, and so is what Tunesmith itself puts on the volume.
    """
    folders = {}
    ours = tuple(f"{place}/" for place in (volume.root / "runs", volume.root / "stages", volume.root / "store"))
    for item in job.spec.datasets:
        if item.volume is None or item.dataset_info is None:
            continue
        try:
            place = volume.resolve(item.volume.path)
            files = [path for path in files_below(place) if not str(path).startswith(ours)]
            found = [(readable(path.relative_to(place).as_posix()), path.stat()) for path in files]
        except (OSError, UnsafePathError):
            continue
        seen = sorted([name, status.st_size, status.st_mtime_ns] for name, status in found)
        if seen:
            folders[f"dataset:{item.name}"] = digest_of([item.volume.path, seen])
    return folders


def _last_run(job: FineTuneJob, volume: Volume) -> Mapping[str, Any]:
    """Return what the last run has written down; nothing if that cannot be read."""
    try:
        run = json.loads((volume.run(job.metadata.name) / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return run if isinstance(run, dict) else {}


def _remembered(job: FineTuneJob, run: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions that the last run found, of the sources that the job still names."""
    try:
        versions, specs = run["sourceVersions"], run["sources"]
        return {
            unit: str(versions[unit])
            for unit, spec in source_specs(job).items()
            if specs.get(unit) == spec and unit in versions
        }
    except (KeyError, TypeError, AttributeError):
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
        content = _content_of(source, config_maps)
        if content is None:
            raise ConfigMapMissingError(
                f"dataset `{dataset.name}`: the job's file holds no ConfigMap `{source.name}` with a key `{source.key}`"
            )
        folder = volume.run(job.metadata.name) / "config-maps" / source.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / source.key).write_bytes(content)
        files[f"dataset:{dataset.name}"] = str(folder / source.key)
    return {"resolve": True, "tokens": {}, "configMaps": files}
