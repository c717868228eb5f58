"""Looks up what there is on the volume of a stage and of those after it, for an edge that missed the stage's report.

``python -m tunesmith_stages.lookup --config stage.json --report FILE`` takes the ``stage.json`` of any stage. It makes
nothing; the report says which units have results. It ends well whether there are any or none, as long as the volume
can be read.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

import sys
from pathlib import Path

from tunesmith_stages.contract import Report, StageConfig, StageName
from tunesmith_stages.fetch.stage import resolved_here
from tunesmith_stages.preconditions import require_volume
from tunesmith_stages.program import read_config, with_versions
from tunesmith_stages.reporting import Findings, reported
from tunesmith_stages.volume import Volume


def look_up(config: StageConfig) -> Report:
    """Return what a program that was given `config` would report if it had nothing to make.

    Raises:
        StageError: the volume is not there, or may not be read.
        OSError: a result cannot be looked at, so that nobody knows whether it is there.
    """
    volume = Volume(Path(config.volume))
    require_volume(volume)
    findings = Findings(config, volume)
    for given, unit in with_versions(config, volume, resolved_here if config.stage is StageName.FETCH else None):
        result = volume.result(config.stage, unit.key)
        if result is not None:
            findings.add(given, unit, result, cached=True)
    return findings.report()


def main() -> int:
    """Look up, write the report, return the exit code."""
    what = (look_up.__doc__ or "").splitlines()[0]
    return reported("tunesmith_stages.lookup", what, lambda config: look_up(read_config(config)))


if __name__ == "__main__":
    sys.exit(main())
