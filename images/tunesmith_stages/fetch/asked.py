"""What is asked of `fetch` for one unit, as every kind of source sees it: with or without a place to work in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.contract import UnitConfig
from tunesmith_stages.volume import Volume


@dataclass(frozen=True)
class Asked:
    """A unit of `fetch`: a source that is looked up, or brought."""

    volume: Volume
    unit: UnitConfig
    runtime: Mapping[str, Any]

    @property
    def source(self) -> Mapping[str, Any]:
        """Where it comes from: exactly one of the forms that docs/design/0004 lists."""
        source: Mapping[str, Any] = self.unit.params["source"]
        return source

    @property
    def kind(self) -> str:
        """``models`` or ``datasets``."""
        return str(self.unit.params["kind"])

    @property
    def version(self) -> str:
        """The version that the source was found to have, empty if it was not looked up."""
        return str(self.unit.params["refresh"])
