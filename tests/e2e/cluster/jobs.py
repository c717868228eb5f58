"""Small FineTuneJobs for the tests on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from support.jobs import Job


def small_job(name: str, training: Mapping[str, Any] | None = None, **ollama: Any) -> dict[str, Any]:
    """Return a FineTuneJob that trains on the CPU for a few steps."""
    steps = {"maxSteps": 6, "processesPerNode": 1, "checkpoint": {"saveSteps": 2}, **(training or {})}
    job = Job(Path(), "", name=name, training=steps, ollama={"model": f"{name}:v1", **ollama})
    data: dict[str, Any] = yaml.safe_load(job.yaml())
    return data
