"""Runs the stage `prepare` as a job does: a program of its own, from files to hashed results.

Run as a program, it does the same with the time of imports left out, as the peers are timed.
"""

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
    """From starting the program to its end; or, without start and imports, from the configuration to the result."""
    busy: float
    """Seconds of processor time in that, of all its processes."""
    rows: int
    tokens: int


def prepare(root: Path, dataset: str, *, alone: bool = False, **params: Any) -> Prepared:
    """Prepare the folder `dataset` of a volume for the base in ``base``; `params` change the stage's parameters.

    With `alone`, start and imports are not in the times.
    """
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
    program = [__file__] if alone else ["-m", "tunesmith_stages.prepare", "--config"]
    began, busy = time.perf_counter(), processor_time()
    done = subprocess.run([sys.executable, *program, file], check=True, stdout=subprocess.PIPE, text=True)
    seconds, busy = time.perf_counter() - began, processor_time() - busy
    if alone:
        seconds, busy = json.loads(done.stdout.splitlines()[-1])
    folder = Volume(root).unit(StageName.PREPARE, unit.key)
    result = json.loads((folder / "result.json").read_text())
    return Prepared(folder, seconds, busy, int(result["numbers"]["rows"]), int(result["numbers"]["tokens"]))


def main() -> None:
    """Carry out the ``stage.json`` that is named, and print the seconds that it took, and those of processor time."""
    from transformers import PreTrainedTokenizerFast  # noqa: F401 - the stage does when it begins
    from transformers.utils import chat_template_utils  # noqa: F401

    from tunesmith_stages.prepare import stage
    from tunesmith_stages.program import read_config, run

    config = read_config(Path(sys.argv[1]))
    began, busy = time.perf_counter(), processor_time()
    code = run(config, stage.prepare)
    print(json.dumps([time.perf_counter() - began, processor_time() - busy]))
    sys.exit(code)


def processor_time() -> float:
    """Return the seconds of processor time that this process has taken, and the children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def read(file: Path) -> list[dict[str, list[int]]]:
    """Return the rows of an Arrow file."""
    with pa.memory_map(str(file)) as source:
        rows: list[dict[str, list[int]]] = pa.ipc.open_file(source).read_all().to_pylist()
    return rows


if __name__ == "__main__":
    main()
