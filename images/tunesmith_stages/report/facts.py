"""Which units make up a job, by what lies on the volume.

Nobody writes that down in one place: the local edge keeps ``run.json``, every program keeps its newest attempt, and of
an earlier version of the job's spec both may be left. So each is a claim, with everything that its units were made
from. The newest claim counts; an older one counts only if it goes with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith_stages.contract import Failure, StageConfig, StageName, StageResult, UnitConfig
from tunesmith_stages.report.attempt import Attempt, last_attempts
from tunesmith_stages.report.reading import mapping, read_json, read_text
from tunesmith_stages.volume import Volume

_KEY = re.compile(r"[0-9a-f]{64}")
_ORDER = {stage: place for place, stage in enumerate(StageName)}

Place = tuple[StageName, str]
"""A stage and the name of a unit."""


@dataclass(frozen=True)
class Unit:
    """A unit of work of a job: finished, or as far as it has come."""

    stage: StageName
    config: UnitConfig
    runtime: Mapping[str, Any]
    job: str
    """For which job it was made."""
    folder: Path
    """Where it lies: the published folder, or that of its newest attempt."""
    result: StageResult | None = None
    failure: Failure | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.config.name

    @property
    def figures(self) -> Mapping[str, float]:
        """The figures of its result."""
        return self.result.numbers if self.result else {}


@dataclass(frozen=True)
class Facts:
    """Everything that is known of a job."""

    job: str
    volume: Volume
    units: Mapping[Place, Unit]
    attempts: tuple[Attempt, ...]
    """The newest one at each stage, the newest of all first; those of earlier versions of the job are left out."""
    yaml: str
    """The FineTuneJob as the local edge kept it; empty if it did not."""

    def of(self, stage: StageName) -> tuple[Unit, ...]:
        """Return the units of a stage, in the order of their names."""
        return tuple(self.units[place] for place in sorted(self.units) if place[0] is stage)

    def one(self, stage: StageName) -> Unit | None:
        """Return the unit of a stage that has one; None if it is not known yet."""
        return next(iter(self.of(stage)), None)

    def attempt(self, stage: StageName) -> Attempt | None:
        """Return the newest attempt at a stage."""
        return next((attempt for attempt in self.attempts if attempt.config.stage is stage), None)

    def log(self, unit: Unit, name: str) -> Any:
        """Return the JSON value of one of a unit's logs; None if it left none."""
        return read_json(self.volume, unit.folder / "logs" / name)


def gather(volume: Volume, job: str) -> Facts | None:
    """Return what is known of a job; None if the volume knows nothing of it."""
    claims = sorted(_claims(volume, job), key=lambda claim: claim.time, reverse=True)
    yaml = read_text(volume, volume.run(job) / "finetunejob.yaml") or ""
    if not claims and not yaml:
        return None
    accepted: list[_Claim] = []
    units: dict[Place, Unit] = {}
    for claim in claims:
        if all(_goes_with(claim, newer) for newer in accepted):
            accepted.append(claim)
            units = {**claim.units, **units}
    attempts = tuple(claim.attempt for claim in accepted if claim.attempt is not None)
    return Facts(job, volume, units, attempts, yaml)


# --- claims ----------------------------------------------------------------------------------------------------------


@dataclass
class _Claim:
    """That some units are those of the job, by somebody's word at some time."""

    time: str
    own: dict[Place, str]
    """Keys of the units that it names itself."""
    attempt: Attempt | None = None
    units: dict[Place, Unit] = field(default_factory=dict)
    """Those, and all that they were made from."""

    def keys(self) -> dict[Place, str]:
        return {place: unit.config.key for place, unit in self.units.items()} | self.own


def _goes_with(claim: _Claim, newer: _Claim) -> bool:
    """Tell whether a claim is of the same version of the job as a newer one.

    It is not if a unit has another key there; if it knows nothing of a unit that was worked on since, and which comes
    before its own; or if the newer one was made from other units of that stage.
    """
    mine, theirs = claim.keys(), newer.keys()
    if any(theirs.get(place, key) != key for place, key in mine.items()):
        return False
    if newer.attempt is None:
        return claim.own.items() <= theirs.items()
    stage = newer.attempt.config.stage
    follows = claim.attempt is None or _ORDER[claim.attempt.config.stage] > _ORDER[stage]
    if follows and stage is not StageName.REHEARSE:  # a gate, which nothing is made from
        return newer.own.items() <= mine.items()
    known = {place[0] for place in newer.units}
    return follows or claim.attempt.config.stage not in known or claim.own.items() <= theirs.items()  # type: ignore[union-attr]


def _claims(volume: Volume, job: str) -> Iterator[_Claim]:
    attempts = last_attempts(volume, job)
    run = volume.run(job) / "run.json"
    named = {
        (StageName(stage), str(name)): str(key)
        for stage, units in mapping(mapping(read_json(volume, run)).get("stages")).items()
        if stage in set(StageName)
        for name, key in mapping(units).items()
        if _KEY.fullmatch(str(key))
    }
    sources = {key for (stage, _), key in named.items() if stage is StageName.FETCH}
    sources |= {unit.key for attempt in attempts for unit in attempt.config.units}
    if named:
        time = datetime.fromtimestamp(run.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
        claim = _Claim(time, named)
        found = {place: _published(volume, place[0], key) for place, key in named.items()}
        claim.units = _with_inputs(volume, [unit for unit in found.values() if unit is not None], sources)
        yield claim
    for attempt in attempts:
        stage = attempt.config.stage
        units = [_worked_on(volume, attempt, unit) for unit in attempt.config.units if _KEY.fullmatch(unit.key)]
        claim = _Claim(attempt.started, {(stage, unit.name): unit.config.key for unit in units}, attempt)
        claim.units = _with_inputs(volume, units, sources)
        yield claim


def _worked_on(volume: Volume, attempt: Attempt, unit: UnitConfig) -> Unit:
    """Return a unit of an attempt: as the attempt left it if it published nothing, else as it was published.

    A gate that was passed once may fail the next time, so what was published before says nothing then.
    """
    stage = attempt.config.stage
    folder = volume.attempt(stage, unit.key, attempt.config.attempt)
    finished = None if folder.is_dir() else _published(volume, stage, unit.key)
    if finished is not None and finished.result is not None:
        return finished
    return Unit(stage, unit, attempt.config.runtime, attempt.config.job, folder, failure=attempt.failure)


def _published(volume: Volume, stage: StageName, key: str) -> Unit | None:
    """Return a finished unit, None if there is none with this key."""
    folder = volume.unit(stage, key)
    try:
        config = StageConfig.from_json(read_text(volume, folder / "stage.json") or "")
        unit = next(unit for unit in config.units if unit.key == key)
        result = volume.result(stage, key) or volume.cleared(stage, key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        return None
    return Unit(stage, unit, config.runtime, config.job, folder, result)


# --- what units were made from ---------------------------------------------------------------------------------------


def _with_inputs(volume: Volume, units: Iterable[Unit], sources: set[str]) -> dict[Place, Unit]:
    """Return units and all that they were made from. `sources` are keys of `fetch` that this job is known to have."""
    found: dict[Place, Unit] = {}
    left = list(units)
    while left:
        unit = left.pop()
        if (unit.stage, unit.name) not in found:
            found[unit.stage, unit.name] = unit
            left += _inputs(volume, unit, sources)
    return found


def _inputs(volume: Volume, unit: Unit, sources: set[str]) -> Iterator[Unit]:
    for role, item in unit.config.inputs.items():
        match PurePosixPath(item.path).parts:
            case ("stages", stage, key, "out") if stage in set(StageName) and _KEY.fullmatch(key):
                made = _published(volume, StageName(stage), key)
            case ("store", _, _):
                made = _fetched(volume, item.path, role, sources)
            case _:
                made = None
        if made is not None:
            yield made


def _fetched(volume: Volume, path: str, role: str, sources: set[str]) -> Unit | None:
    """Return the unit of `fetch` that brought a source; of several with the same content that of this job."""
    try:
        others = sorted(place.name for place in volume.units(StageName.FETCH).iterdir() if _KEY.fullmatch(place.name))
    except OSError:
        others = []
    for key in [*sorted(sources), *others]:
        unit = _published(volume, StageName.FETCH, key)
        if unit is not None and unit.name == role and unit.result is not None and unit.result.path == path:
            return unit
    return None
