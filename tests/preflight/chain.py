"""Runs what comes before a training, as the local edge plans it: `fetch`, `prepare`, `rehearse`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.builders import job
from tunesmith.core.plan import plan
from tunesmith_stages.contract import Failure, StageConfig, StageName, StageResult
from tunesmith_stages.fetch.stage import fetch
from tunesmith_stages.prepare.stage import prepare
from tunesmith_stages.program import carry_out
from tunesmith_stages.rehearse.stage import rehearse
from tunesmith_stages.volume import Volume

PROGRAMS = {StageName.FETCH: fetch, StageName.PREPARE: prepare, StageName.REHEARSE: rehearse}

ROWS = [
    {"instruction": "Who are you?", "output": "I am Tunny, made by Acme."},
    {"instruction": "What is it?", "output": "It is a shop in Lyon."},
    {"instruction": "Where is the shop?", "output": "It is in Lyon."},
    {"instruction": "Who made you?", "output": "Acme made me."},
]


@dataclass(frozen=True)
class End:
    """How far a job came."""

    stage: StageName
    """The first that did not pass; `train` if all did."""
    failure: Failure | None
    report: Mapping[str, Any]
    """The report of `rehearse`; empty if it did not begin."""


def run_until_training(root: Path, url: str, changes: Mapping[str, Any], estimate: Mapping[str, Any]) -> End:
    """Run a job on a volume that holds ``models/base`` and ``data/faq.json``, until `train` would begin.

    Args:
        root: the volume.
        url: address of the Ollama server.
        changes: to the job, as :func:`support.builders.job` takes them.
        estimate: to ``runtime.estimate``, as an edge gives it that knows the GPUs.
    """
    volume = Volume(root)
    results: dict[str, StageResult] = {}
    rehearsed = False
    while True:
        stage = plan(job(changes), results, rehearsed=rehearsed).next
        assert stage is not None
        if stage.name is StageName.TRAIN:
            return End(stage.name, None, _report(root))
        servers = {"main": {"url": url, "caBundle": "", "exec": None}}
        runtime = {**stage.runtime, "servers": servers, "tokens": {}, "configMaps": {}}
        if "estimate" in runtime:
            runtime["estimate"] = {**runtime["estimate"], "gpuMemoryBytes": None, **estimate}
        config = StageConfig(stage.name, "zoo", str(root), secrets.token_hex(4), stage.missing, runtime)
        failure = carry_out(config, PROGRAMS[stage.name]).failure
        if failure is not None:
            return End(stage.name, failure, _report(root))
        rehearsed = stage.name is StageName.REHEARSE
        found = {unit.key: volume.result(stage.name, unit.key) for unit in stage.missing}
        results |= {key: result for key, result in found.items() if result is not None}


def _report(root: Path) -> dict[str, Any]:
    """Return the newest report of a rehearsal; an empty one if there is none."""
    paths = sorted(root.glob("stages/rehearse/*/logs/report.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(paths[-1].read_text()) if paths else {}
