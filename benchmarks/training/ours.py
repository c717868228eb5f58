"""Trains with the stage `train`, started as ``tunesmith run`` starts it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.preparing.ours import Prepared
from benchmarks.training.case import Case
from benchmarks.training.watch import Run, watch

from tunesmith_stages.contract import Input, StageConfig, StageName, UnitConfig
from tunesmith_stages.volume import Volume


def train(case: Case, root: Path, prepared: Prepared, turn: int, environ: Mapping[str, str]) -> Run:
    """Train on what was prepared in the volume `root`."""
    digest = json.loads((prepared.folder / "result.json").read_text())["digest"]
    data = Input(str((prepared.folder / "out").relative_to(root)), digest)
    inputs = {"base": Input("base", "b" * 64), "prepared": data}
    unit = UnitConfig("train", f"{turn:064x}", _params(case), inputs)
    config = StageConfig(StageName.TRAIN, "benchmark", str(root), "1", (unit,), _runtime(case))
    file = root / f"train-{turn}.json"
    file.write_text(config.to_json())
    attempt = Volume(root).attempt(StageName.TRAIN, unit.key, config.attempt)
    command: list[str | Path] = [sys.executable, "-m", "tunesmith_stages.train", "--config", file]
    return watch(command, attempt / "logs" / "metrics.jsonl", environ, root / f"train-{turn}.log")


def _params(case: Case) -> dict[str, Any]:
    lora = {"rank": case.rank, "alpha": case.alpha, "dropout": "0", "targetModules": ["AllLinear"]}
    return {
        "finetuningType": "Full" if case.full else "LoRA",
        "lora": None if case.full else lora,
        "precision": "BF16" if case.bf16 else "FP32",
        "learningRate": str(case.rate),
        "lrSchedule": "Cosine",
        "warmupSteps": case.rise,
        "weightDecay": "0",
        "maxGradNorm": "1",
        "numTrainEpochs": "1",
        "maxSteps": None,
        "globalBatchSize": case.batch,
        "zeroStage": 2,
        "gradientCheckpointing": True,
        "seed": case.seed,
    }


def _runtime(case: Case) -> dict[str, Any]:
    return {
        "gpusPerNode": 0,
        "processesPerNode": 1,
        "perDeviceTrainBatchSize": case.micro,
        "gradientAccumulationSteps": case.accumulation,
        "perDeviceEvalBatchSize": case.micro,
        "loggingSteps": 1,
        "evalSteps": None,
        "saveSteps": 500,
        "keep": 2,
    }
