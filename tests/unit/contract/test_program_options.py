"""The options of a stage program, and its life as the first process of a container, tried on real processes."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.builders import stage_config
from tunesmith_stages.contract import ExitCode, Report, StageConfig, StageName
from tunesmith_stages.volume import Volume

PROGRAM = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.program import Made, StageError, main

def make(work):
    (work.out / "model.bin").write_text("made")
    work.progress.note("begun")
    print("said by Python")
    print("complained of by Python", file=sys.stderr)
    ctypes.CDLL(None).puts(b"said in C")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["sh", "-c", "echo said by a child; echo complained of by a child >&2"])
    if work.params.get("orphans"):
        subprocess.run(["sh", "-c", work.params["orphans"]])
    if work.params.get("waits"):
        time.sleep(60)
    if work.params.get("fails"):
        raise StageError(ExitCode.BAD_DATA, "row 3: no", reason="BadRow")
    if work.params.get("crashes"):
        os.abort()
    return Made(numbers={"rows": 3})

def assist(work):
    print("helping", work.folder.name, work.folder.exists())
    if work.params.get("fails"):
        raise StageError(ExitCode.OUT_OF_MEMORY, "rank 1: no memory")

main(StageName.CONVERT, make, assist=assist)
"""

SAID = ["said by Python", "complained of by Python", "said in C", "said by a child", "complained of by a child"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with the program and an empty volume."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "volume").mkdir()
    return tmp_path


def config_of(root: Path, **params: Any) -> StageConfig:
    config = stage_config(root / "volume", StageName.CONVERT, params=params)
    (root / "stage.json").write_text(config.to_json())
    return config


def argv(root: Path, *options: str) -> list[str]:
    program = [sys.executable, str(root / "program.py"), "--config", str(root / "stage.json")]
    return [*program, "--report", str(root / "report"), *options]


def environ(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def run(root: Path, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv(root, *options), capture_output=True, text=True, check=False, timeout=60, **{"env": environ(), **more}
    )


def start(root: Path, *options: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start the program and wait until it is in the middle of its stage."""
    process = subprocess.Popen(
        [*before, *argv(root, *options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ()
    )
    assert process.stdout is not None
    while "said by a child" not in (line := process.stdout.readline()):
        assert line
    return process


def report_of(root: Path) -> Report:
    return Report.from_json((root / "report").read_text())


def volume_of(root: Path) -> Volume:
    return Volume(root / "volume")


def log_of(root: Path, attempt: str = "1", node: int = 0) -> str:
    return volume_of(root).log("support-bot", StageName.CONVERT, attempt, node).read_text()


# --- --report --------------------------------------------------------------------------------------------------------


def test_success_is_reported(root: Path) -> None:
    """At the end of a stage that went well its unit is told, with digest, size and figures."""
    config = config_of(root)
    assert run(root).returncode == ExitCode.OK
    result = volume_of(root).result(StageName.CONVERT, config.units[0].key)
    report = report_of(root)
    assert result is not None
    assert [(unit.digest, unit.bytes, unit.cached) for unit in report.units] == [(result.digest, 4, False)]
    assert report.numbers["rows"] == 3
    assert report.failure is None


def test_failure_is_reported(root: Path) -> None:
    """Why a stage failed is told in the report as in failure.json."""
    config_of(root, fails=True)
    assert run(root).returncode == ExitCode.BAD_DATA
    failure = report_of(root).failure
    assert failure is not None
    assert (failure.code, failure.reason, failure.message) == (ExitCode.BAD_DATA, "BadRow", "row 3: no")


def test_interruption_is_reported(root: Path) -> None:
    """A stage that is asked to stop says so in the report."""
    config_of(root, waits=True)
    process = start(root)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == ExitCode.INTERRUPTED
    failure = report_of(root).failure
    assert failure is not None
    assert failure.reason == "Interrupted"


BAD_STARTS: dict[str, tuple[Callable[[Path], object], ExitCode, str, str]] = {
    "no stage.json": (lambda root: (root / "stage.json").unlink(), ExitCode.BAD_CONFIG, "BadConfig", "stage.json"),
    "that of another stage": (
        lambda root: (root / "stage.json").write_text(stage_config(root / "volume", StageName.TRAIN).to_json()),
        ExitCode.BAD_CONFIG,
        "BadConfig",
        "is for the stage train, not for convert",
    ),
    "no volume": (lambda root: (root / "volume").rmdir(), ExitCode.BAD_CONFIG, "VolumeNotFound", "volume"),
}


@pytest.mark.parametrize("name", BAD_STARTS)
def test_bad_start_is_reported(root: Path, name: str) -> None:
    """What is wrong before the stage begins is told in the report, too, and nothing is made anywhere."""
    config_of(root)
    spoil, code, reason, words = BAD_STARTS[name]
    spoil(root)
    done = run(root, "--log")
    assert done.returncode == code
    failure = report_of(root).failure
    assert failure is not None
    assert (failure.code, failure.reason) == (code, reason)
    assert words in failure.message
    assert f"{reason}: " in done.stderr
    assert not (root / "volume").exists() or not list((root / "volume").iterdir())


def test_report_that_cannot_be_written_hides_nothing(root: Path) -> None:
    """The exit code and the words are the stage's own, even if the report cannot be left."""
    config_of(root, fails=True)
    (root / "report").mkdir()
    done = run(root)
    assert done.returncode == ExitCode.BAD_DATA
    assert "BadRow: row 3: no" in done.stderr


# --- a volume that may not be written --------------------------------------------------------------------------------


def _without_power_over_files() -> None:
    """Take from the user root what lets it write everywhere: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; who is not root has none


@pytest.mark.parametrize("cached", [False, True], ids=["with work to do", "with everything there"])
def test_volume_that_may_not_be_written(root: Path, cached: bool) -> None:
    """It is found at once, with path, user, groups, owner, and the fields that choose another user."""
    config_of(root)
    folder = root / "volume"
    if cached:
        assert run(root).returncode == ExitCode.OK
        folder = root / "volume" / "stages" / "convert"
    folder.chmod(0o555)
    done = run(root, preexec_fn=_without_power_over_files)
    folder.chmod(0o755)
    assert done.returncode == ExitCode.NO_PERMISSION
    failure = report_of(root).failure
    assert failure is not None
    assert failure.reason == "VolumeNotWritable"
    for words in (f"uid {os.getuid()}, gid {os.getgid()}", "groups ", str(folder), "with mode 0555"):
        assert words in failure.message
    for field in ("storage.runAsUser", "storage.runAsGroup", "storage.supplementalGroups"):
        assert field in failure.hint


def test_volume_that_may_not_be_read(root: Path) -> None:
    """A root that may not be looked into is told apart from one that is not there."""
    config_of(root)
    (root / "volume").chmod(0)
    done = run(root, preexec_fn=_without_power_over_files)
    (root / "volume").chmod(0o755)
    assert done.returncode == ExitCode.NO_PERMISSION
    assert "VolumeNotReadable: " in done.stderr


# --- --attempt -------------------------------------------------------------------------------------------------------


def test_attempt_can_be_named(root: Path) -> None:
    """A pod gives its own name to the attempt: two pods with the same stage.json do not meet in one folder."""
    config = config_of(root, fails=True)
    run(root, "--attempt", "support-bot-convert-0a1b2c3d-1-xyz")
    (folder,) = volume_of(root).attempts(StageName.CONVERT, config.units[0].key)
    assert folder.name.endswith(".support-bot-convert-0a1b2c3d-1-xyz")
    assert StageConfig.from_json((folder / "stage.json").read_text()).attempt == "support-bot-convert-0a1b2c3d-1-xyz"


@pytest.mark.parametrize("name", ["", "..", "a/b", "checkpoints", "-x", ".hidden", "x" * 200, "a b"])
def test_attempt_that_is_no_name(root: Path, name: str) -> None:
    """A name that would lead elsewhere, or be taken for something else, is refused."""
    config_of(root)
    assert run(root, f"--attempt={name}").returncode == 2
    assert not list((root / "volume").iterdir())


# --- --log -----------------------------------------------------------------------------------------------------------


def test_log_keeps_what_is_printed(root: Path) -> None:
    """What Python, C and children print is kept on the volume and printed all the same, the progress too."""
    config_of(root)
    done = run(root, "--log")
    assert done.returncode == ExitCode.OK
    kept = log_of(root)
    for words in SAID:
        assert kept.splitlines().count(words) == 1
        assert done.stdout.splitlines().count(words) == 1
    for printed in (kept, done.stdout):
        assert "begun" in printed
        assert all("stage" in json.loads(line) for line in printed.splitlines() if line.startswith("{"))


def test_without_log_nothing_is_kept(root: Path) -> None:
    """As the local edge wants it, which keeps the log itself."""
    config_of(root)
    done = run(root)
    assert not list(root.glob("volume/runs/*/logs"))
    assert "complained of by Python" in done.stderr


def test_log_holds_the_reason_of_a_failure(root: Path) -> None:
    """The last words before the end are in the log."""
    config_of(root, fails=True)
    assert run(root, "--log", "--attempt", "pod-1").returncode == ExitCode.BAD_DATA
    assert "BadRow: row 3: no" in log_of(root, "pod-1")


def test_log_holds_what_came_before_a_crash(root: Path) -> None:
    """A program that dies by a fault in C leaves in its log what it said before."""
    config_of(root, crashes=True)
    assert run(root, "--log").returncode == -signal.SIGABRT
    deadline = time.monotonic() + 10
    while "complained of by a child" not in log_of(root) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "complained of by a child" in log_of(root)


def test_log_does_not_wait_for_children_that_stay(root: Path) -> None:
    """A process that was left behind and holds the log open delays the end by a few seconds, not for its own life."""
    config_of(root, orphans="sleep 9 &")
    with (root / "printed").open("w") as printed:
        began = time.monotonic()
        done = subprocess.run(argv(root, "--log"), stdout=printed, stderr=printed, check=False, env=environ())
    assert time.monotonic() - began < 8
    assert done.returncode == ExitCode.OK
    assert "said in C" in log_of(root)


def test_log_that_cannot_be_kept_stops_nothing(root: Path) -> None:
    """Where the log should lie is a folder: the stage is made, and what it prints is printed."""
    config = config_of(root)
    volume_of(root).log("support-bot", StageName.CONVERT, "1").mkdir(parents=True)
    done = run(root, "--log")
    assert done.returncode == ExitCode.OK
    assert volume_of(root).result(StageName.CONVERT, config.units[0].key) is not None
    assert "said in C" in done.stdout


# --- further nodes ---------------------------------------------------------------------------------------------------


def test_further_nodes_help(root: Path) -> None:
    """On a node that is not the first, the attempt's folder is another's: nothing is made, published or reported."""
    config = config_of(root)
    done = run(root, "--log", env=environ(JOB_COMPLETION_INDEX="2"))
    assert done.returncode == ExitCode.OK
    assert f"helping {config.units[0].key}.1 False" in log_of(root, node=2)
    assert volume_of(root).attempts(StageName.CONVERT, config.units[0].key) == []
    assert report_of(root) == Report()


def test_failure_of_a_further_node(root: Path) -> None:
    """It is told by exit code and report; the folder, which is node 0's, stays as it is."""
    config = config_of(root, fails=True)
    folder = volume_of(root).attempt(StageName.CONVERT, config.units[0].key, "1")
    (folder / "out").mkdir(parents=True)
    done = run(root, env=environ(JOB_COMPLETION_INDEX="1"))
    assert done.returncode == ExitCode.OUT_OF_MEMORY
    failure = report_of(root).failure
    assert failure is not None
    assert failure.message == "rank 1: no memory"
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_first_node_makes(root: Path) -> None:
    """Node 0 of several works as a node alone does."""
    config_of(root)
    assert run(root, env=environ(JOB_COMPLETION_INDEX="0")).returncode == ExitCode.OK
    assert len(report_of(root).units) == 1


# --- process 1 -------------------------------------------------------------------------------------------------------

OWN_PROCESSES = ("unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--pid", "--fork")
"""Runs a program as process 1 of a namespace, as a container does."""
can_be_first = pytest.mark.skipif(
    subprocess.run([*OWN_PROCESSES, "true"], capture_output=True, check=False).returncode != 0,
    reason="this machine allows no process namespaces",
)


def as_first(root: Path, *options: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    process = start(root, *options, before=OWN_PROCESSES)
    (first,) = psutil.Process(process.pid).children()
    return process, first


@can_be_first
def test_process_1_stops_in_order(root: Path) -> None:
    """As process 1, with children of dead children around, a stage ends on SIGTERM, with report and whole log."""
    config_of(root, waits=True, orphans="sleep 0.05 & sleep 0.06 &")
    process, first = as_first(root, "--log")
    first.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == ExitCode.INTERRUPTED
    failure = report_of(root).failure
    assert failure is not None
    assert failure.reason == "Interrupted"
    assert log_of(root).endswith("Interrupted: stopped by SIGTERM\n")


@can_be_first
def test_process_1_outlives_the_container_runtime(root: Path) -> None:
    """What started process 1 is no parent to it: when that ends, the stage goes on."""
    config_of(root, waits=True)
    process, first = as_first(root)
    process.kill()
    process.wait()
    time.sleep(0.3)
    assert first.is_running()
    assert first.status() != psutil.STATUS_ZOMBIE
    assert not (root / "report").exists()
    first.kill()
    process.communicate()
