"""The stage itself: which kind of source a unit has, its version, and how it is brought."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tunesmith_stages.contract import StageName, UnitConfig, content_key
from tunesmith_stages.fetch import from_hub, given, named_dataset, on_volume, trained_job
from tunesmith_stages.fetch.asked import Asked
from tunesmith_stages.program import Made, Work
from tunesmith_stages.volume import Volume


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How one kind of source is looked up and brought."""

    version: Callable[[Asked], str]
    bring: Callable[[Work], Made]
    is_far: bool = False
    """Whether its version may have to be asked of a server."""


_KINDS: Mapping[str, _Kind] = {
    "volume": _Kind(on_volume.version, on_volume.bring),
    "gguf": _Kind(on_volume.version_of_gguf, on_volume.bring_gguf),
    "builtin": _Kind(given.no_version, given.bring_builtin),
    "inline": _Kind(given.no_version, given.bring_inline),
    "huggingFace": _Kind(from_hub.version, from_hub.bring, is_far=True),
    "modelScope": _Kind(from_hub.version, from_hub.bring, is_far=True),
    "job": _Kind(trained_job.version, trained_job.bring),
    "configMap": _Kind(given.version_of_config_map, given.bring_config_map),
}


_NAMED: Mapping[str, _Kind] = {
    "volume": _Kind(named_dataset.version_on_volume, named_dataset.bring_from_volume, is_far=True),
    "huggingFace": _Kind(from_hub.version, named_dataset.bring_from_repository, is_far=True),
    "modelScope": _Kind(from_hub.version, named_dataset.bring_from_repository, is_far=True),
}
"""The same for a source that holds LLaMA-Factory's ``dataset_info.json``, of which one entry is meant."""


def fetch(work: Work) -> Made:
    """Bring one source into the store."""
    return _kind_of(work.params["source"]).bring(work)


def resolved(volume: Volume, unit: UnitConfig, runtime: Mapping[str, Any]) -> UnitConfig:
    """Return a unit with the version of its source, and thus with the key that it has for who sees the volume.

    What is built in has no version, and neither has what is not there: `fetch` says what is wrong with that.
    """
    version = _kind_of(unit.params["source"]).version(Asked(volume, unit, runtime))
    params = {**unit.params, "refresh": version}
    return dataclasses.replace(unit, key=content_key(StageName.FETCH, params, unit.inputs), params=params)


def resolved_here(volume: Volume, unit: UnitConfig, runtime: Mapping[str, Any]) -> UnitConfig:
    """Return the same without asking anybody: a source whose version others tell has the one that the unit says."""
    if _kind_of(unit.params["source"]).is_far:
        return dataclasses.replace(unit) if unit.params["refresh"] else unit
    return resolved(volume, unit, runtime)


def _kind_of(source: Mapping[str, Any]) -> _Kind:
    (name,) = source.keys() & _KINDS.keys()
    return _NAMED[name] if "datasetInfo" in source else _KINDS[name]
