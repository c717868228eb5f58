"""Looks up what there is on the volume of a stage and of those after it, for an edge that missed the stage's report.

``python -m tunesmith_stages.lookup --config stage.json --report FILE`` takes the ``stage.json`` of any stage. It makes
nothing; the report says which units have results. It ends well whether there are any or none, as long as the volume
can be read.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

import argparse
import logging
import sys
from pathlib import Path

from tunesmith_stages.contract import ExitCode, Report, StageConfig, StageName
from tunesmith_stages.failures import classify
from tunesmith_stages.fetch.stage import resolved_here
from tunesmith_stages.preconditions import require_volume
from tunesmith_stages.program import read_config, with_versions
from tunesmith_stages.reporting import Findings, write_report
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
    parser = argparse.ArgumentParser(
        prog="tunesmith_stages.lookup", description=(look_up.__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--config", required=True, type=Path, metavar="stage.json", help="the stage's whole input")
    parser.add_argument("--report", required=True, type=Path, metavar="FILE", help="where to tell what there is")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        report = look_up(read_config(arguments.config))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
        failure = classify(error)
        print(f"{failure.reason}: {failure.message}", file=sys.stderr)
        report = Report(failure=failure)
    write_report(arguments.report, report)
    return report.failure.code if report.failure else ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
