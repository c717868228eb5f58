"""Runs the stage `prepare` as a job does: a program of its own, from files to hashed results."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tunesmith_stages.contract import Input, StageConfig, StageName, UnitConfig
from tunesmith_stages.volume import Volume


@dataclass(frozen=True)
class Prepared:
    """What came of a run."""

    folder: Path
    """The unit's: `out/`, `logs/`."""
    seconds: float
    """From starting the program to its end."""
    busy: float
    """Seconds of processor time, of all its processes."""
    rows: int
    tokens: int


def prepare(root: Path, dataset: str, **params: Any) -> Prepared:
    """Prepare the folder `dataset` of a volume for the base in ``base``; `params` change the stage's parameters."""
    source = {"name": dataset, "builtin": False, "format": "Auto", "columns": None, "maxSamples": None}
    plain = {"chatTemplate": None, "sequenceLength": 2048, "packing": False, "validationFraction": "0", "seed": 1}
    unit = UnitConfig(
        "prepare",
        f"{len(list(root.glob('*.json'))):064x}",
        {"datasets": [{**source, "substitutions": {}, **params.pop("dataset", {})}], **plain, **params},
        {"base": Input("base", "b" * 64), f"dataset:{dataset}": Input(dataset, "d" * 64)},
    )
    config = StageConfig(StageName.PREPARE, "benchmark", str(root), "1", (unit,))
    file = root / f"{unit.key[-8:]}.json"
    file.write_text(config.to_json())
    began, busy = time.perf_counter(), processor_time()
    subprocess.run(
        [sys.executable, "-m", "tunesmith_stages.prepare", "--config", file], check=True, stdout=subprocess.DEVNULL
    )
    seconds, busy = time.perf_counter() - began, processor_time() - busy
    folder = Volume(root).unit(StageName.PREPARE, unit.key)
    result = json.loads((folder / "result.json").read_text())
    return Prepared(folder, seconds, busy, int(result["numbers"]["rows"]), int(result["numbers"]["tokens"]))


def processor_time() -> float:
    """Return the seconds of processor time that this process has taken, and the children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def read(file: Path) -> list[dict[str, list[int]]]:
    """Return the rows of an Arrow file."""
    with pa.memory_map(str(file)) as source:
        rows: list[dict[str, list[int]]] = pa.ipc.open_file(source).read_all().to_pylist()
    return rows
