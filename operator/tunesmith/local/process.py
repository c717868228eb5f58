"""Runs one stage program as a process and hands on what it tells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.local.lock import Lock, end_process
from tunesmith.local.sources import found_versions, resolved_key
from tunesmith_stages.contract import FAILURE_CLASSES, ExitCode, Failure, Report, StageConfig, StageName
from tunesmith_stages.volume import Volume, write_whole

_TAIL_LINES = 20


class StageFailedError(Exception):
    """A stage program ended without its result.

    Attributes:
        stage: its name.
        failure: why.
        log: the file with everything that it wrote.
        tail: the last lines of that file.
    """

    def __init__(self, stage: str, failure: Failure, log: Path) -> None:
        super().__init__(f"{stage}: {failure.reason}: {failure.message}")
        self.stage = stage
        self.failure = failure
        self.log = log
        self.tail = _last_lines(log)


def _last_lines(log: Path) -> list[str]:
    """Return the end of a log; nothing of one that cannot be read: what failed may be the disk that it is on."""
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        return []


def run_stage(
    config: StageConfig, volume: Volume, locks: Sequence[Lock], on_event: Callable[[Mapping[str, Any]], None]
) -> Report:
    """Run a stage program to its end and return what it reports.

    `locks` are told of the process, and `on_event` is given every progress event.

    Raises:
        StageFailedError: it made no result.
        KeyboardInterrupt: the user asked to stop; the program was given time to leave things in order.
    """
    folder = volume.run(config.job)
    volume.logs(config.job).mkdir(parents=True, exist_ok=True)
    stage_json = folder / f"{config.stage}.json"
    report = folder / f"{config.stage}.report.json"
    write_whole(stage_json, config.to_json())
    report.unlink(missing_ok=True)
    log = volume.log(config.job, config.stage, config.attempt)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"tunesmith_stages.{config.stage}"),
                *("--config", str(stage_json), "--report", str(report)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            errors="replace",
            env=os.environ | ({} if config.stage is StageName.FETCH else {"HF_HUB_OFFLINE": "1"}),
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the stage in order
        )
        try:
            for lock in locks:
                lock.note_child(process.pid)
            for line in process.stdout or ():
                event = _event(line)
                if event is None:
                    output.write(line)
                    output.flush()
                else:
                    on_event(event)
            code = process.wait()
        except BaseException:
            end_process(process.pid)
            process.wait()
            raise
    if code != ExitCode.OK:
        raise StageFailedError(config.stage, _failure(config, volume, code), log)
    return _checked(config, volume, report, log)


def _checked(config: StageConfig, volume: Volume, file: Path, log: Path) -> Report:
    """Return the report of a program that ended well, if every result is there of which it speaks.

    Raises:
        StageFailedError: one is not.
    """
    try:
        report = Report.from_json(file.read_text(encoding="utf-8"))
        versions = found_versions(config, report)
    except (OSError, ValueError, KeyError, TypeError):
        report, versions = Report(), {}
    for unit in config.units:
        if volume.result(config.stage, resolved_key(unit, versions.get(unit.name, ""))) is None:
            sentence = f"The program ended well, but left no result of `{unit.name}` that can be used."
            raise StageFailedError(config.stage, Failure.of(FAILURE_CLASSES[ExitCode.INTERNAL], sentence), log)
    return report


def _event(line: str) -> Mapping[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "stage" in event else None


def _failure(config: StageConfig, volume: Volume, code: int) -> Failure:
    for unit in config.units:
        path = volume.attempt(config.stage, unit.key, config.attempt) / "failure.json"
        try:
            return Failure.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    if code == -signal.SIGKILL:
        sentence = "The program was killed (signal 9), which the system does when memory runs out."
        return Failure.of(FAILURE_CLASSES[ExitCode.OUT_OF_MEMORY], sentence)
    return Failure.from_exit_code(code if code >= 0 else 128 - code)  # as a container tells of a signal
