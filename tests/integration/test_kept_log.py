"""What a program printed is on the volume, however its container ended."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

_PROGRAM = """
import os, sys, time
from pathlib import Path
from tunesmith_stages.kept_log import kept_log

with kept_log(Path(sys.argv[1])):
    for number in range(2000):
        print("line", number)
    sys.stdout.flush()
    os.write(2, b"last words of a library\\n")
    time.sleep(600)
"""


def test_the_log_of_a_container_that_is_killed_as_a_whole(tmp_path: Path) -> None:
    """Out of memory, the kernel kills every process of a container, the one that copies too: the log is whole."""
    log = tmp_path / "train.log"
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, str(log)], stdout=subprocess.DEVNULL) as program:
        try:
            end = time.monotonic() + 60
            while not (log.exists() and log.read_bytes().endswith(b"library\n")) and time.monotonic() < end:
                time.sleep(0.02)
        finally:
            for child in psutil.Process(program.pid).children(recursive=True):
                child.kill()
            program.kill()
    lines = log.read_text().splitlines()
    assert lines == [*(f"line {number}" for number in range(2000)), "last words of a library"]
