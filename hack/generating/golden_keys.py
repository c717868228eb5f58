"""The content keys of the examples, so that nobody changes a key without seeing it.

A key holds the digests of its inputs. Here every unit of work comes to a made-up digest, so no file, tool or clock
has a part in it, and a changed parameter shows in the key of its own stage alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.parse import parse_job
from tunesmith.core.plan import plan
from tunesmith_stages.contract import RECIPES, StageName, StageResult, UnitConfig, digest_of

GOLDEN_KEYS = Path("tests/golden/keys")


def golden_files(root: Path) -> dict[Path, str]:
    """Return the text of the golden file of every example below `root`."""
    files = {}
    for job_file in sorted(root.glob("examples/*/finetunejob.yaml")):
        keys = keys_of(parse_job(job_file.read_text(encoding="utf-8")))
        content = {"generatedBy": "make generate", "keys": keys}
        files[GOLDEN_KEYS / f"{job_file.parent.name}.json"] = json.dumps(content, indent=2) + "\n"
    return files


def keys_of(job: FineTuneJob) -> dict[str, str]:
    """Return the content key of every unit of work of a job, by ``stage/unit``."""
    results: dict[str, StageResult] = {}
    while True:
        current = plan(job, results, rehearsed=True)
        missing = [(stage.name, unit) for stage in current.stages for unit in stage.missing]
        if not missing:
            return current.keys
        results |= {unit.key: made_up_result(stage, unit) for stage, unit in missing}


def made_up_result(stage: StageName, unit: UnitConfig) -> StageResult:
    """Return a result whose digest depends on the stage and the unit's name alone."""
    return StageResult(
        stage=stage,
        unit=unit.name,
        key=unit.key,
        recipe=RECIPES[stage],
        digest=digest_of([stage, unit.name]),
        path=f"stages/{stage}/{unit.name}/out",
        files=(),
    )
