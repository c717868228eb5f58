"""`make demo`, as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.jobs import QUICKSTART

pytestmark = pytest.mark.e2e


def test_demo(tmp_path: Path) -> None:
    """The quickstart goes from nothing to a model that says the chosen name, before and after side by side."""
    environ = {name: value for name, value in os.environ.items() if name != "OLLAMA_HOST"}
    demo = subprocess.run(
        [sys.executable, QUICKSTART / "demo.py", "--name", "Saffron", "--folder", tmp_path / "demo"],
        env={**environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "I am Base" in demo.stdout
    assert "I am Saffron" in demo.stdout
    assert "quickstart:v1-q8_0" in demo.stdout
    assert "12 Harbour Street" in demo.stdout
