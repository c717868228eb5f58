"""The peers of `prepare`, each in an environment of its own, which is made once and kept in the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Environment:
    """A Python environment that is made once and kept in the cache."""

    name: str
    """Of the program that it is for, with its version."""
    packages: tuple[str, ...]
    """All that decides what it does, pinned."""

    def programs(self) -> Path:
        """Return the folder of its programs; it is made if it is not there."""
        folder = _cache() / "peers" / "-".join(self.packages[0].split("=="))
        done = folder / "packages"
        if not done.is_file() or done.read_text().split() != list(self.packages):
            print(f"making the environment of {self.name} in {folder}", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            uv = _uv()
            python = folder / "bin" / "python"
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
            subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *self.packages], check=True)
            done.write_text(" ".join(self.packages))
        return folder / "bin"


@dataclass(frozen=True)
class Peer:
    """A program that prepares data."""

    environment: Environment
    program: str
    """Its file here. It gets one argument, a JSON object with the time at which it is started, and prints one on its
    last line."""

    @property
    def name(self) -> str:
        """Its name and version."""
        return self.environment.name

    def run(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Run the program and return what it found."""
        python = self.environment.programs() / "python"
        command: list[str | Path] = [python, _HERE / self.program, json.dumps({**task, "began": time.time()})]
        with tempfile.TemporaryDirectory() as cache:
            environ = {**os.environ, "HF_HOME": cache, "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1"}
            done = subprocess.run(command, capture_output=True, env=environ, check=False, text=True)
        if done.returncode != 0:
            sys.exit(f"{self.name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


LLAMA_FACTORY = Peer(
    Environment(
        "LLaMA-Factory 0.9.5",
        ("llamafactory==0.9.5", "torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"),
    ),
    "peer_llamafactory.py",
)
TRL = Peer(
    Environment(
        "TRL 1.16.0",
        (
            "trl==1.16.0",
            "torch==2.15.0",
            "transformers==5.23.0",
            "datasets==5.2.0",
            "peft==0.21.2",
            "accelerate==1.15.0",
        ),
    ),
    "peer_trl.py",
)
PEERS: Sequence[Peer] = (LLAMA_FACTORY, TRL)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"


def _uv() -> Path:
    """Return the uv that the Makefile installs."""
    found = sorted(_cache().glob("uv-*/bin/uv"))
    if not found:
        sys.exit("uv is not there: run `make env` first")
    return found[-1]
