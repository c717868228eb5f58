"""Runs the whole stage `prepare` in tests, on a volume with a base model, and reads what it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from support.builders import stage_config
from tunesmith_stages.contract import ExitCode, Failure, Input, StageName, StageResult
from tunesmith_stages.prepare.stage import prepare
from tunesmith_stages.program import run
from tunesmith_stages.volume import Volume

ROWS = [{"instruction": f"What is {number}?", "output": f"It is shop {number} in Lyon."} for number in range(40)]


def write_rows(root: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a dataset's rows as one JSON file."""
    (root / name).mkdir(exist_ok=True)
    (root / name / f"{name}.json").write_text(json.dumps(rows))


def dataset(name: str = "faq", **changes: Any) -> dict[str, Any]:
    """Return what stage.json says of a dataset, with some of it changed."""
    plain = {"name": name, "builtin": False, "format": "Auto", "columns": None, "maxSamples": None, "substitutions": {}}
    return {**plain, **changes}


def prepared(root: Path, *datasets: Mapping[str, Any], attempt: str = "1", **params: Any) -> StageResult | Failure:
    """Run the whole stage; return its result, or why there is none."""
    given = list(datasets) or [dataset()]
    plain = {"datasets": given, "chatTemplate": None, "sequenceLength": 256, "validationFraction": "0", "seed": 1}
    inputs = {f"dataset:{item['name']}": Input(item["name"], "d" * 64) for item in given}
    config = stage_config(
        root,
        StageName.PREPARE,
        params={**plain, **params},
        inputs={"base": Input("base", "b" * 64), **inputs},
        attempt=attempt,
    )
    code = run(config, prepare)
    volume, key = Volume(root), config.units[0].key
    if code is not ExitCode.OK:
        return Failure.from_json((volume.attempt(StageName.PREPARE, key, attempt) / "failure.json").read_text())
    result = volume.result(StageName.PREPARE, key)
    assert result is not None
    return result


def done(found: StageResult | Failure) -> StageResult:
    """Return the result of a stage that must have one."""
    assert isinstance(found, StageResult), found
    return found


def failed(found: StageResult | Failure) -> Failure:
    """Return why a stage has no result."""
    assert isinstance(found, Failure)
    return found


def arrow(path: Path) -> list[dict[str, list[int]]]:
    """Return the rows of an Arrow file."""
    with pa.memory_map(str(path)) as source:
        rows: list[dict[str, list[int]]] = pa.ipc.open_file(source).read_all().to_pylist()
    return rows


def report(root: Path, result: StageResult) -> dict[str, Any]:
    """Return what the stage left for people."""
    content: dict[str, Any] = json.loads((root / result.path).parent.joinpath("logs", "report.json").read_text())
    return content


def progress(root: Path, result: StageResult) -> list[dict[str, Any]]:
    """Return what the stage said while it ran."""
    lines = (root / result.path).parent.joinpath("progress.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def notes(root: Path, result: StageResult) -> list[str]:
    """Return its notes."""
    return [event["note"] for event in progress(root, result) if "note" in event]
