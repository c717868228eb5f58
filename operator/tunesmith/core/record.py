"""What the status of a FineTuneJob remembers of its stages, as values: the record that the next decision starts from.

A status may be lost or edited by hand. Reading it never fails: what makes no sense is taken as not there, and costs a
look at the volume, never a training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.api.status import REASON_PATTERN, State
from tunesmith_stages.contract import StageName, StageResult

_STAGES, _STATES = frozenset(StageName), frozenset(State)
ACTIVE = frozenset({State.PENDING, State.RUNNING, State.UNKNOWN})
"""States in which a Kubernetes Job is expected to be there."""


@dataclass(frozen=True)
class UnitRecord:
    """A result that is known to be on the volume."""

    name: str
    key: str
    digest: str
    bytes: int = 0
    version: str = ""


@dataclass(frozen=True)
class StageRecord:
    """What is remembered of one stage."""

    name: StageName
    state: State = State.WAITING
    job: str = ""
    """The Kubernetes Job of the newest attempt."""
    keys: tuple[str, ...] = ()
    """What that attempt is to make."""
    attempts: int = 0
    failures: int = 0
    """Attempts that failed by a fault that may pass; interruptions are not counted."""
    interruptions: int = 0
    """Attempts, one after the other, that were ended from outside as soon as they had begun."""
    started: str = ""
    finished: str = ""
    next_attempt: str = ""
    """Not to be tried again before this time (RFC 3339)."""
    reason: str = ""
    message: str = ""
    hint: str = ""
    log_tail: str = ""
    """The last lines that its program wrote before it failed."""
    exit_code: int | None = None
    cached: bool = False
    """Everything it makes was on the volume already."""
    elapsed: int = 0
    """Seconds that earlier attempts at the same keys took."""
    save_seconds: int = 0
    """Longest time that the saving of a checkpoint took."""
    units: tuple[UnitRecord, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)

    @property
    def attempt_id(self) -> tuple[StageName, tuple[str, ...], int]:
        """Which attempt at what the newest one is."""
        return self.name, self.keys, self.attempts


_TEXTS = {
    "job": "job",
    "started": "startTime",
    "finished": "completionTime",
    "next_attempt": "nextAttemptTime",
    "reason": "reason",
    "message": "message",
    "hint": "hint",
    "log_tail": "logTail",
}
_COUNTS = {
    "attempts": "attempts",
    "failures": "failures",
    "interruptions": "interruptions",
    "elapsed": "elapsedSeconds",
    "save_seconds": "saveSeconds",
}


def read_records(status: Mapping[str, Any]) -> dict[StageName, StageRecord]:
    """Return what `status` remembers, with an empty record for every stage that it does not name."""
    records = {name: StageRecord(name) for name in StageName}
    for item in _objects(status.get("stages")):
        if item.get("name") in _STAGES:
            record = _read(StageName(item["name"]), item)
            records[record.name] = record
    return records


def _read(name: StageName, item: Mapping[str, Any]) -> StageRecord:
    state = item.get("state")
    numbers = item.get("numbers")
    code = item.get("exitCode")
    texts = {ours: item[theirs] for ours, theirs in _TEXTS.items() if isinstance(item.get(theirs), str)}
    if texts.get("reason") and not re.fullmatch(REASON_PATTERN, texts["reason"]):
        del texts["reason"]
    return StageRecord(
        name=name,
        state=State(state) if state in _STATES else State.WAITING,
        keys=tuple(key for key in item.get("keys") or () if isinstance(key, str)),
        exit_code=code if isinstance(code, int) else None,
        cached=item.get("cached") is True,
        units=tuple(_read_unit(unit) for unit in _objects(item.get("units")) if _is_unit(unit)),
        numbers={str(k): str(v) for k, v in numbers.items()} if isinstance(numbers, Mapping) else {},
        **texts,
        **{ours: max(0, item[theirs]) for ours, theirs in _COUNTS.items() if isinstance(item.get(theirs), int)},
    )


def _is_unit(unit: Mapping[str, Any]) -> bool:
    return all(isinstance(unit.get(name), str) for name in ("name", "key", "digest"))


def _read_unit(unit: Mapping[str, Any]) -> UnitRecord:
    size = unit.get("bytes")
    version = unit.get("version")
    return UnitRecord(
        unit["name"],
        unit["key"],
        unit["digest"],
        size if isinstance(size, int) else 0,
        version if isinstance(version, str) else "",
    )


def _objects(items: object) -> Iterable[Mapping[str, Any]]:
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def write_record(record: StageRecord) -> dict[str, Any]:
    """Return a stage as it stands in the status; what is empty is left out."""
    item: dict[str, Any] = {"name": str(record.name), "state": str(record.state)}
    for ours, theirs in {**_TEXTS, **_COUNTS}.items():
        if value := getattr(record, ours):
            item[theirs] = value
    if record.keys:
        item["keys"] = list(record.keys)
    if record.exit_code is not None:
        item["exitCode"] = record.exit_code
    if record.cached:
        item["cached"] = True
    if record.units:
        item["units"] = [_write_unit(unit) for unit in record.units]
    if record.numbers:
        item["numbers"] = dict(record.numbers)
    return item


def _write_unit(unit: UnitRecord) -> dict[str, Any]:
    item: dict[str, Any] = {"name": unit.name, "key": unit.key, "digest": unit.digest, "bytes": unit.bytes}
    return {**item, "version": unit.version} if unit.version else item


def as_result(stage: StageName, unit: UnitRecord, kind: str = "") -> StageResult:
    """Return a result as the plan wants it; `kind` is ``models`` or ``datasets`` for a unit of `fetch`.

    Where a result lies follows from its digest or its key (``docs/design/0003-the-cluster-edge.md``).
    """
    path = f"store/{kind}/{unit.digest}" if stage is StageName.FETCH else f"stages/{stage}/{unit.key}/out"
    return StageResult(stage, unit.name, unit.key, recipe=0, digest=unit.digest, path=path, files=())
