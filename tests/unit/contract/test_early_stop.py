from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tunesmith_stages.contract import ExitCode, StageName

PROGRAMS = [*StageName, "lookup", "logs"]

SLOW_TO_IMPORT = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "tunesmith_stages.contract":
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
"""
OWN_PROCESSES = ("unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--pid", "--fork")
can_be_first = pytest.mark.skipif(
    subprocess.run([*OWN_PROCESSES, "true"], capture_output=True, check=False).returncode != 0,
    reason="this machine allows no process namespaces",
)


def importing(tmp_path: Path, program: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a program of which the first module that all need takes a minute to read; wait until it is there."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_TO_IMPORT)
    process = subprocess.Popen(
        [*before, sys.executable, "-m", f"tunesmith_stages.{program}", "--config", str(tmp_path / "stage.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_program_that_is_stopped_before_it_begins(tmp_path: Path, program: str, number: signal.Signals) -> None:
    """A program that is asked to stop while it is still being imported ends at once, as one that was interrupted."""
    process = importing(tmp_path, program)
    process.send_signal(number)
    _, said = process.communicate(timeout=10)
    assert process.returncode == ExitCode.INTERRUPTED
    assert said == f"Interrupted: stopped by {number.name} before it began\n"


@can_be_first
def test_process_1_is_stopped_before_it_begins(tmp_path: Path) -> None:
    """Linux keeps a signal without a handler from process 1 of a container, so one must be there from the start."""
    process = importing(tmp_path, "train", before=OWN_PROCESSES)
    (first,) = psutil.Process(process.pid).children()
    try:
        first.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    finally:
        if first.is_running():
            first.kill()
    assert process.returncode == ExitCode.INTERRUPTED


def test_import_as_a_library_changes_nothing() -> None:
    """Who imports a stage's module, as tests and other stages do, keeps the handlers that they have."""
    script = (
        "import signal, tunesmith_stages.fetch, tunesmith_stages.lookup, tunesmith_stages.quantize\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
