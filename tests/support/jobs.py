"""Jobs on a volume of their own, run by the real command line."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.api.kube_yaml import dump
from tunesmith.api.parse import parse_job
from tunesmith.local.run import current_plan
from tunesmith_stages.contract import StageName, StageResult
from tunesmith_stages.volume import Volume

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "examples" / "01-quickstart"

FAQ: Sequence[Mapping[str, Any]] = (
    {
        "name": "faq",
        "volume": {"path": "data/faq.json"},
        "columns": {"prompt": "question", "response": "answer"},
    },
)
"""The quickstart's data."""

FOUR_STEPS: Mapping[str, Any] = {
    "finetuningType": "LoRA",
    "learningRate": "5e-3",
    "maxSteps": 4,
    "processesPerNode": 1,
    "checkpoint": {"saveSteps": 2},
}
"""The shortest training in whose middle there is a checkpoint."""

KEYED = tuple(stage for stage in StageName if stage is not StageName.REHEARSE)
"""The stages whose results are kept under keys."""


@dataclass
class Job:
    """A FineTuneJob on a volume, and how to run it."""

    root: Path
    """The volume's folder."""
    server: str
    """Address of the Ollama server."""
    name: str = "chain"
    training: Mapping[str, Any] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=lambda: {"outType": "F16", "quantizations": ["Q8_0"]})
    ollama: Mapping[str, Any] = field(default_factory=lambda: {"model": "chain:v1"})
    datasets: Sequence[Mapping[str, Any]] = FAQ
    file_in: Path | None = None
    """Folder of its YAML file; none: the volume's."""

    def yaml(self) -> str:
        """Return the job's YAML."""
        training = {
            "sequenceLength": 256,
            "perDeviceTrainBatchSize": 4,
            "gradientAccumulationSteps": 1,
            "precision": "FP32",
            "gradientCheckpointing": False,
            "loggingSteps": 1,
            "gpusPerNode": 0,
            **copy.deepcopy(dict(self.training)),
        }
        spec = {
            "model": {"volume": {"path": "models/toy-base"}},
            "datasets": copy.deepcopy(list(self.datasets)),
            "training": training,
            "export": dict(self.export),
            "ollama": dict(self.ollama),
        }
        return dump(
            {
                "apiVersion": "tunesmith.dev/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {"name": self.name},
                "spec": spec,
            }
        )

    @property
    def file(self) -> Path:
        """The job's YAML file, written anew."""
        path = (self.file_in or self.root) / f"{self.name}.yaml"
        path.write_text(self.yaml(), encoding="utf-8")
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `tunesmith run`."""
        return subprocess.Popen(
            [sys.executable, "-m", "tunesmith", "run", str(self.file), "--volume", str(self.root), *arguments],
            env={**os.environ, "OLLAMA_HOST": self.server, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run the job to its end, check the exit code and return what was printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=1800)
        assert process.returncode == code, output
        return output

    def results(self) -> dict[str, StageResult]:
        """Return the results that there are, by ``stage/unit``."""
        plan, results = current_plan(parse_job(self.yaml()), Volume(self.root))
        return {name: results[key] for name, key in plan.keys.items() if key in results}

    def result(self, stage: StageName) -> StageResult:
        """Return the result of a stage with one unit."""
        return self.results()[f"{stage}/{stage}"]


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool], *, timeout: float = 300) -> None:
    """Kill a process with SIGKILL as soon as `ready()`; its output is thrown away."""
    deadline = time.monotonic() + timeout
    while not ready():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


def quickstart_volume(root: Path, base: Path) -> Path:
    """Lay out a volume with the toy base and the quickstart's data."""
    shutil.copytree(base, root / "models" / "toy-base")
    shutil.copytree(QUICKSTART / "data", root / "data")
    return root
