"""The plain values that the core computes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tunesmith_stages.contract import StageName, UnitConfig


class StageState(StrEnum):
    """Where a stage of a plan stands."""

    DONE = "done"
    """Every unit has its result; there is nothing to do."""
    READY = "ready"
    """Its inputs are known: it can run now."""
    WAITING = "waiting"
    """An earlier stage must come first; its keys are not known yet."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan: what it makes, and what of that is missing."""

    name: StageName
    state: StageState
    units: tuple[UnitConfig, ...] = ()
    """Everything that it makes; empty while its inputs are not known."""
    missing: tuple[UnitConfig, ...] = ()
    """The units without a result."""
    runtime: Mapping[str, Any] = field(default_factory=dict)
    """How it is made; the edge adds what only it knows, such as the server's address."""


@dataclass(frozen=True)
class Plan:
    """The stages of a job in their order."""

    job: str
    stages: tuple[PlannedStage, ...]

    def stage(self, name: StageName) -> PlannedStage:
        """Return one stage by its name."""
        return next(stage for stage in self.stages if stage.name is name)

    @property
    def next(self) -> PlannedStage | None:
        """The stage to run now, or None if everything is done."""
        return next((stage for stage in self.stages if stage.state is StageState.READY), None)

    @property
    def keys(self) -> dict[str, str]:
        """Content key by ``stage/unit``, of every unit whose inputs are known."""
        return {f"{stage.name}/{unit.name}": unit.key for stage in self.stages for unit in stage.units}
