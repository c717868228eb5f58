"""What a program tells an edge that cannot see the volume: which results there are, now and further on."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tunesmith_stages.contract import (
    KEY_DIGITS,
    UNITS_PER_PROGRAM,
    ExitCode,
    Failure,
    Input,
    Report,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
    UnitReport,
    content_key,
)
from tunesmith_stages.failures import classify
from tunesmith_stages.volume import Volume

log = logging.getLogger(__name__)

_NOT_FOLLOWED = (StageName.REHEARSE, StageName.REGISTER)
"""Whether their results still hold is for these stages themselves to find out."""


class Findings:
    """Collects the results of a program's own units, and then those that follow from them."""

    def __init__(self, config: StageConfig, volume: Volume) -> None:
        self._config = config
        self._volume = volume
        self._units: list[UnitReport] = []
        self._made: dict[str, Input] = {}
        self._numbers: Mapping[str, float] = {}

    def add(self, given: UnitConfig, unit: UnitConfig, result: StageResult, *, cached: bool) -> None:
        """Take note of a result.

        Args:
            given: the unit as it stands in stage.json.
            unit: the unit as it was made: with the version of its source, if that had to be looked up.
            result: what came of it.
            cached: whether it was there before.
        """
        version = "" if unit is given else unit.params["refresh"]
        self._volume.note_use(self._volume.unit(result.stage, result.key))
        self._units.append(_report_of(given.key, result, cached=cached, version=version))
        self._numbers = result.numbers
        if given.role:
            self._made[given.role] = result.as_input()

    def failed(self, failure: Failure) -> Report:
        """Return the report of a program that failed after what it has made so far."""
        return Report(tuple(self._units), self._numbers, failure)

    def report(self) -> Report:
        """Return the report, with the results of later stages that are on the volume already.

        Raises:
            OSError: the volume cannot be looked at.
        """
        later = follow(self._config, self._volume, self._made)
        return Report((*self._units, *(_report_of(result.key, result, cached=True) for result in later)), self._numbers)


def _report_of(key: str, result: StageResult, *, cached: bool, version: str = "") -> UnitReport:
    return UnitReport(key[:KEY_DIGITS], result.digest, result.bytes, cached, version)


def follow(config: StageConfig, volume: Volume, made: Mapping[str, Input]) -> list[StageResult]:
    """Return the results of later units whose inputs are all known, and of what follows from these: at most 16.

    Args:
        config: names the later units, and what was made before this stage.
        volume: where results lie.
        made: by role, what this stage made.

    Raises:
        OSError: the volume cannot be looked at.
    """
    return [result for _, result in zip(range(UNITS_PER_PROGRAM), _following(config, volume, made), strict=False)]


def _following(config: StageConfig, volume: Volume, made: Mapping[str, Input]) -> Iterator[StageResult]:
    known = {**config.known, **made}
    for unit in config.later:
        if unit.stage in _NOT_FOLLOWED or not known.keys() >= set(unit.needs):
            continue
        key = content_key(unit.stage, unit.params, {role: known[role] for role in unit.needs})
        result = volume.result(unit.stage, key)
        if result is not None:
            known[unit.role] = result.as_input()
            volume.note_use(volume.unit(unit.stage, key))
            yield result


def write_report(path: Path, report: Report) -> None:
    """Write a report where it is read when the program has ended; that it cannot be written is no failure.

    In a Pod the file is a mount of its own, which can be written but not replaced.
    """
    try:
        path.write_text(report.to_json(), encoding="utf-8")
    except (OSError, ValueError) as error:
        log.warning("the report could not be written to %s: %s", path, error)


def reported(program: str, what: str, find_out: Callable[[Path], Report]) -> int:
    """Run a program that makes nothing but a report: read its arguments, write the report, return the exit code.

    Args:
        program: the name of its module.
        what: what it does, in a sentence.
        find_out: returns the report, given where ``stage.json`` lies; whatever it raises is reported as a failure.
    """
    parser = argparse.ArgumentParser(prog=program, description=what)
    parser.add_argument("--config", required=True, type=Path, metavar="stage.json", help="the whole input")
    parser.add_argument("--report", required=True, type=Path, metavar="FILE", help="where to tell what came of it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        report = find_out(arguments.config)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
        report = Report(failure=classify(error))
    if report.failure:
        print(f"{report.failure.reason}: {report.failure.message}", file=sys.stderr)
    write_report(arguments.report, report)
    return report.failure.code if report.failure else ExitCode.OK
