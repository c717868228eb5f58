"""The frame in which every stage program runs: arguments, progress, results, failures.

A stage is a function from a :class:`Work` (one unit, its folder, its inputs) to a :class:`Made`. :func:`main` reads
``stage.json``, calls that function for every unit that has no result yet, and publishes what it made. Whatever goes
wrong ends as ``failure.json``, one sentence on stderr and an exit code of :class:`ExitCode`. What came of it all is
told in a report, to an edge that cannot look at the volume.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import itertools
import logging
import os
import re
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tunesmith_stages.authorities import trust_given_authorities
from tunesmith_stages.contract import ExitCode, Failure, Report, StageConfig, StageName, UnitConfig
from tunesmith_stages.failures import InterruptedStage, StageError, blame_full_disk, classify
from tunesmith_stages.kept_log import kept_log
from tunesmith_stages.making import clear, find_or_make, leave
from tunesmith_stages.preconditions import require_volume, require_writable
from tunesmith_stages.progress import Progress
from tunesmith_stages.reporting import Findings, write_report
from tunesmith_stages.volume import Volume
from tunesmith_stages.work import Assist, Made, Resolve, StageFunction, StillTrue, Work

__all__ = ["InterruptedStage", "Made", "Progress", "StageError", "Work", "classify", "die_with_parent", "main", "run"]


_NODE = "JOB_COMPLETION_INDEX"
"""Kubernetes' name for the number of a pod of an Indexed Job."""


def main(
    stage: StageName,
    make: StageFunction,
    *,
    still_true: StillTrue | None = None,
    resolve: Resolve | None = None,
    assist: Assist | None = None,
) -> NoReturn:
    """Run the stage program and exit.

    Args:
        stage: which one it is.
        make: makes a unit.
        still_true: asked of each result that was found, where a result can cease to hold.
        resolve: used for each unit if ``stage.json`` says ``runtime.resolve``.
        assist: called instead of `make` on every node but the first, if the stage runs on several.
    """
    arguments = _arguments(stage, make.__doc__ or "")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.umask(0o002)
    die_with_parent()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        trust_given_authorities()
        config = read_config(arguments.config, stage)
        if arguments.attempt:
            config = dataclasses.replace(config, attempt=arguments.attempt)
        with contextlib.ExitStack() as until_the_end:
            _require_places(config, keeps_log=arguments.log)
            node = _node(config) if assist else 0
            if assist and not node:
                config = _with_unused_name(config)
            if arguments.log:
                log = Volume(Path(config.volume)).log(config.job, config.stage, config.attempt, node)
                until_the_end.enter_context(kept_log(log))
            if assist and node:
                report = _help(config, assist)
            else:
                report = carry_out(config, make, still_true=still_true, resolve=resolve)
            _heed_no_signals()
    except (Exception, InterruptedStage) as error:  # noqa: BLE001 - whatever it is, it is reported
        report = Report(failure=_told(classify(error)))
        _heed_no_signals()
    if arguments.report is not None:
        write_report(arguments.report, report)
    sys.exit(report.failure.code if report.failure else ExitCode.OK)


def _arguments(stage: StageName, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"tunesmith_stages.{stage}", description=description.strip())
    parser.add_argument("--config", required=True, type=Path, metavar="stage.json", help="the stage's whole input")
    parser.add_argument("--attempt", type=_attempt, metavar="NAME", help="name of this try, instead of the config's")
    parser.add_argument("--report", type=Path, metavar="FILE", help="tell there at the end what there is (contract)")
    parser.add_argument("--log", action="store_true", help="keep what is printed in the job's folder on the volume too")
    return parser.parse_args()


def _attempt(name: str) -> str:
    """Return a name that can be the end of a folder's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name) or name == "checkpoints":
        raise argparse.ArgumentTypeError(f"{name!r} must consist of letters, digits, '.', '_' and '-'")
    return name


def read_config(path: Path, stage: StageName | None = None) -> StageConfig:
    """Read ``stage.json``.

    Raises:
        StageError: it is not there, is none, or is that of another stage than `stage`.
        OSError: the disk does not give it.
    """
    try:
        config = StageConfig.from_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise StageError(ExitCode.BAD_CONFIG, f"{path}: {type(error).__name__}: {error}") from error
    if stage not in {None, config.stage}:
        raise StageError(ExitCode.BAD_CONFIG, f"{path} is for the stage {config.stage}, not for {stage}")
    return config


def _node(config: StageConfig) -> int:
    """Return the number of this node. One that works alone is the first, whatever Job its pod belongs to.

    A number that is none is the stage's to refuse.
    """
    given = os.environ.get(_NODE, "")
    return int(given) if given.isdecimal() and config.runtime.get("nodes") != 1 else 0


def _with_unused_name(config: StageConfig) -> StageConfig:
    """Return `config` with a name of the attempt that none has had before.

    Pods that work together are given their Job's name. When it was suspended and goes on, new pods are given it again.
    """
    volume = Volume(Path(config.volume))
    taken = {folder.name for unit in config.units for folder in volume.attempts(config.stage, unit.key)}
    names = itertools.chain([config.attempt], (f"{config.attempt}-{number}" for number in itertools.count(2)))
    unused = (name for name in names if not any(f"{unit.key}.{name}" in taken for unit in config.units))
    return dataclasses.replace(config, attempt=next(unused))


def _require_places(config: StageConfig, *, keeps_log: bool) -> None:
    """See to it that the volume can be worked on."""
    volume = Volume(Path(config.volume))
    require_volume(volume)
    folders = [volume.units(config.stage)]
    if config.stage is StageName.FETCH:
        folders += sorted({volume.sources(unit.params["kind"]) for unit in config.units})
    require_writable([*folders, volume.logs(config.job)] if keeps_log else folders)


def run(config: StageConfig, make: StageFunction) -> ExitCode:
    """Make every unit of `config` that has no result yet; return the exit code."""
    failure = carry_out(config, make).failure
    return failure.code if failure else ExitCode.OK


def carry_out(
    config: StageConfig,
    make: StageFunction,
    *,
    still_true: StillTrue | None = None,
    resolve: Resolve | None = None,
) -> Report:
    """Make every unit of `config` that has no result yet; report what there is then, also of later stages.

    The arguments are those of :func:`main`.
    """
    from tunesmith_stages.report.keeping import KeptAttempt  # for people alone; who imports this module may do without

    volume = Volume(Path(config.volume))
    findings = Findings(config, volume)
    kept = KeptAttempt(config, volume)
    folder: Path | None = None
    try:
        pairs = with_versions(config, volume, resolve)
        config = dataclasses.replace(config, units=tuple(unit for _, unit in pairs))
        kept.begins(config)
        for given, unit in pairs:
            folder = volume.attempt(config.stage, unit.key, config.attempt)
            work = Work(config, unit, volume, folder, Progress(config.stage, unit.name, folder))
            result, cached = find_or_make(work, make, still_true)
            findings.add(given, unit, result, cached=cached)
        folder = None
        report = findings.report()
    except (Exception, InterruptedStage) as error:  # noqa: BLE001 - the one place where whatever went wrong becomes a failure
        failure = blame_full_disk(classify(error), volume)
        if folder is not None:
            clear(folder)
            leave(folder, failure)
        report = findings.failed(_told(failure))
    kept.ends(report.failure)
    return report


def _help(config: StageConfig, assist: Assist) -> Report:
    """Help another node; what comes of it is for that node to publish and to report, this one leaves nothing."""
    volume = Volume(Path(config.volume))
    try:
        for unit in config.units:
            folder = volume.attempt(config.stage, unit.key, config.attempt)
            assist(Work(config, unit, volume, folder, Progress(config.stage, unit.name, folder)))
        return Report()
    except (Exception, InterruptedStage) as error:  # noqa: BLE001 - as above
        return Report(failure=_told(classify(error)))


def with_versions(config: StageConfig, volume: Volume, resolve: Resolve | None) -> list[tuple[UnitConfig, UnitConfig]]:
    """Return each unit of `config` with what it is to be made as: itself, unless it is to be resolved."""
    if resolve is None or not config.runtime.get("resolve"):
        return [(unit, unit) for unit in config.units]
    return [(unit, resolve(volume, unit, config.runtime)) for unit in config.units]


def _told(failure: Failure) -> Failure:
    """Say on stderr why the program ends; called where the exception is still known."""
    _say(traceback.format_exc() if failure.code is ExitCode.INTERNAL else "")
    _say(f"{failure.reason}: {failure.message}\n")
    return failure


def _say(text: str) -> None:
    """Write to stderr, which may itself go to the disk that is full: the exit code must still be ours."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - Python flushes it when it exits


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _heed_no_signals()
    raise InterruptedStage(f"stopped by {signal.Signals(number).name}")


def _heed_no_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the process that started this one dies, so that nothing is left running alone.

    The first process of a container has no parent there (getppid(2) gives 0): what started it is the container
    runtime, whose end, by a restart of the node's service, is none of our business.
    """
    if sys.platform == "linux" and os.getppid() != 0:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)
