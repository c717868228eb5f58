"""What a job needs of the volume, read from what is written down of it: the FineTuneJob on a cluster, or its run.

Neither is trusted to be whole: a spec that cannot be read, or a status that lacks something, means that the job is not
finished, and then everything stays that was made for it (:mod:`tunesmith.core.retention`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tunesmith.api.keys import REFRESH_ANNOTATION
from tunesmith.api.status import State
from tunesmith.core.asked import asked
from tunesmith.core.base_job import base_of
from tunesmith.core.record import ACTIVE, StageRecord, read_records
from tunesmith.core.retention import Needs
from tunesmith_stages.contract import StageName

Item = Mapping[str, Any]

_KEEP_ALL = {"keepIntermediates": True, "keepVersions": 1 << 31}
"""The retention of a job whose own cannot be read."""


def needs_of(item: Item) -> Needs:
    """Return what a FineTuneJob needs: one as the API server has it, with ``metadata``, ``spec`` and ``status``."""
    meta, spec, status = _mapping(item.get("metadata")), _mapping(item.get("spec")), _mapping(item.get("status"))
    records = read_records(status)
    finished = _is_finished(meta, status) and not any(record.state in ACTIVE for record in records.values())
    retention = _retention(spec)
    name = str(meta.get("name", ""))
    return Needs(
        job=name,
        who=f"FineTuneJob {name}",
        seen=_is_seen(status),
        finished=finished,
        registered=finished and _is_made(records[StageName.REGISTER]),
        keys={stage: _keys_of(record) for stage, record in records.items()},
        paths=frozenset({*_stored(records[StageName.FETCH]), *_named_paths(spec)}),
        active=frozenset(record.job for record in records.values() if record.job and record.state in ACTIVE),
        base="" if _has_base(records[StageName.FETCH]) else base_of({"spec": spec}),
        keep_intermediates=retention["keepIntermediates"],
        keep_versions=retention["keepVersions"],
    )


def needs_of_run(name: str, run: Item, spec: Item, *, registered: bool) -> Needs:
    """Return what a job needs that was run on this machine.

    Args:
        name: of the job.
        run: its ``run.json``; empty if it has none yet.
        spec: that of its YAML.
        registered: whether all that `run` names is there, and the model is served.
    """
    stages = _mapping(run.get("stages"))
    retention = _retention(spec)
    return Needs(
        job=name,
        who=f"the run {name}",
        seen=bool(stages),
        finished=registered,
        registered=registered,
        keys={stage: frozenset(map(str, _mapping(stages.get(stage)).values())) for stage in StageName},
        paths=frozenset(_named_paths(spec)),
        base="" if registered else base_of({"spec": spec}),
        keep_intermediates=retention["keepIntermediates"],
        keep_versions=retention["keepVersions"],
    )


def _is_seen(status: Item) -> bool:
    """Tell whether an operator has looked at a job: the API server gives new ones a generation that none can have."""
    observed = status.get("observedGeneration")
    return isinstance(observed, int) and observed > 0


def _is_finished(meta: Item, status: Item) -> bool:
    """Tell whether a job ended well as it is written now."""
    wanted = (
        meta.get("generation", 1),
        asked(REFRESH_ANNOTATION, {"annotations": _mapping(meta.get("annotations"))}, status),
    )
    seen = (status.get("observedGeneration"), status.get("refresh", "")) == wanted
    conditions = status.get("conditions")
    succeeded = any(
        _mapping(one).get("type") == "Succeeded" and _mapping(one).get("status") == "True"
        for one in (conditions if isinstance(conditions, list) else ())
    )
    return seen and succeeded


def _is_made(record: StageRecord) -> bool:
    return record.state is State.SUCCEEDED and bool(record.units)


def _keys_of(record: StageRecord) -> frozenset[str]:
    return frozenset({*record.keys, *(unit.key for unit in record.units)})


def _stored(fetch: StageRecord) -> Iterable[str]:
    """Yield where the sources may lie; of which kind each is does not matter, as digests are unique."""
    return (f"store/{kind}/{unit.digest}" for unit in fetch.units for kind in ("models", "datasets"))


def _has_base(fetch: StageRecord) -> bool:
    return fetch.state is State.SUCCEEDED and any(unit.name == "base" for unit in fetch.units)


def _named_paths(spec: Item) -> Iterable[str]:
    """Yield the paths on the volume that a job names as its sources, which may lie where results do."""
    model, datasets = _mapping(spec.get("model")), spec.get("datasets")
    named = [model.get("volume"), model.get("gguf")]
    named += [_mapping(one).get("volume") for one in (datasets if isinstance(datasets, list) else ())]
    for one in named:
        path = "/".join(part for part in str(_mapping(one).get("path", "")).split("/") if part not in {"", "."})
        if path:
            yield path


def _retention(spec: Item) -> dict[str, Any]:
    """Return what a job says of how long its results stay; all stays if that makes no sense."""
    said = _mapping(spec.get("storage")).get("retention")
    if said is None:
        said = {}
    if not isinstance(said, Mapping):
        return _KEEP_ALL
    intermediates, versions = said.get("keepIntermediates", False), said.get("keepVersions", 1)
    if not isinstance(intermediates, bool) or isinstance(versions, bool) or not isinstance(versions, int):
        return _KEEP_ALL
    return {"keepIntermediates": intermediates, "keepVersions": versions}


def _mapping(value: object) -> Item:
    return value if isinstance(value, Mapping) else {}
