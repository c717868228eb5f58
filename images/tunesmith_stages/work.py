"""What a stage is given, and what it gives back: one unit of work, and what was made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode, FileEntry, StageConfig, StageResult, UnitConfig
from tunesmith_stages.failures import StageError
from tunesmith_stages.progress import Progress
from tunesmith_stages.volume import Volume


@dataclass(frozen=True)
class Work:
    """One unit of work and the place where it is made."""

    config: StageConfig
    unit: UnitConfig
    volume: Volume
    folder: Path
    """The attempt's folder, ``stages/<stage>/<key>.<attempt>``."""
    progress: Progress

    @property
    def out(self) -> Path:
        """Folder for what later stages read; everything in it is hashed into the result's digest."""
        return self.folder / "out"

    @property
    def logs(self) -> Path:
        """Folder for the logs of tools and for figures that people look at; not hashed."""
        return self.folder / "logs"

    @property
    def params(self) -> Mapping[str, Any]:
        """The unit's keyed parameters."""
        return self.unit.params

    @property
    def runtime(self) -> Mapping[str, Any]:
        """How it is to be made: enters no key."""
        return self.config.runtime

    def input(self, role: str) -> Path:
        """Return the folder of an input.

        Raises:
            StageError: it is not there.
        """
        path = self.volume.root / self.unit.inputs[role].path
        if not path.is_dir():
            raise StageError(
                ExitCode.MISSING_INPUT,
                f"the input `{role}` of stage {self.config.stage} is gone from the volume: {path}",
                reason="InputLost",
                hint="Run the job again: the stage that makes it will be repeated.",
            )
        return path


@dataclass(frozen=True)
class Made:
    """What a stage function made of a unit."""

    outputs: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    stored: Path | None = None
    """Folder in the store that holds what was made, if it is not the unit's own ``out/``."""
    files: tuple[FileEntry, ...] = ()
    """The files in `stored`."""
    scratch: Path | None = None
    """Folder that is of no use once the result is published (checkpoints); it is removed then, not before."""


StageFunction = Callable[[Work], Made]
StillTrue = Callable[[Work, StageResult], bool]
"""Says of a result that was found whether it still holds; if not, the unit is made again."""
Resolve = Callable[[Volume, UnitConfig, Mapping[str, Any]], UnitConfig]
"""Completes a unit by what only a program can tell that sees the volume, or asks a hub; it is reported under its former
key. The third argument is the runtime."""
Assist = Callable[[Work], None]
"""Helps node 0 to make a unit; `Work.folder` is that of node 0's attempt, which has the same name, and is not ours."""
