"""The same jobs are refused by the API server and by `tunesmith validate`, whichever fields are given together."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from integration.test_crd import Jobs, RefusedError
from support.builders import job_data
from support.cluster import api_server
from tunesmith.api.crd import custom_resource_definition
from tunesmith.api.kube_yaml import dump
from tunesmith.api.parse import InvalidJobError, parse_job, parse_object

Choices = Mapping[str, Sequence[Any]]

_SEEDS = range(12)
_JOBS_EACH = 25

_DECIMALS = ("0", "0.00", "0e5", "1", "1.0", "1E0", "0.0001", "0.00010", "1e-4", "1e-99", "00.5", "100.000", "100.001")
_MODELS: Sequence[Any] = (
    {"volume": {"path": "base"}},
    {"volume": {"path": "..\n"}},
    {"gguf": {"path": "m.gguf"}},
    {"gguf": {"path": "m.gguf"}, "chatTemplate": {}},
    {"job": {"name": "other"}},
    {"job": {"name": "support-bot"}},
    {"huggingFace": {"repo": "a/b"}, "chatTemplate": {"name": "qwen", "enableThinking": False}},
)
_SOURCES: Sequence[Any] = (
    {"volume": {"path": "d.json"}},
    {"builtin": "SelfCognition"},
    {"inline": [{"text": "x"}]},
    {"configMap": {"name": "c", "key": "K.JSONL"}},
    {"configMap": {"name": "c", "key": ".jsonl"}},
    {"configMap": {"name": "c", "key": "README.txt"}},
    {"configMap": {"name": "c", "key": "dataset_info.json"}},
    {"huggingFace": {"repo": "a/b"}},
    {"modelScope": {"repo": "a/b", "subset": "s"}},
    {},
)
_DATASET: Choices = {
    "format": ("Auto", "Alpaca", "ShareGPT", "Messages", "PromptCompletion", "Text"),
    "columns": (
        {},
        {"prompt": "q"},
        {"messages": "m", "system": "s"},
        {"text": "t"},
        {"tools": "t"},
        {"chosen": "c"},
        {"desirable": "d"},
    ),
    "tags": ({}, {"role": "r"}),
    "datasetInfo": ("x",),
    "languages": (["en"],),
    "weight": _DECIMALS,
    "substitutions": ({}, {"name": "a"}, {"name": "a", "author": "b"}),
    "use": ("Training", "Validation"),
}
_TRAINING: Choices = {
    "method": ("SFT", "DPO", "KTO"),
    "finetuningType": ("LoRA", "Full"),
    "lora": ({}, {"rank": 8}),
    "learningRate": _DECIMALS,
    "weightDecay": _DECIMALS,
    "maxGradNorm": _DECIMALS,
    "numTrainEpochs": _DECIMALS,
    "maxSteps": (1, 10),
    "warmupSteps": (0, 1, 9, 10),
    "nodes": (1, 3),
    "precision": ("BF16", "FP16", "FP32"),
    "gpusPerNode": (0, 1, 2),
    "processesPerNode": (1, 2),
    "validation": (
        {},
        {"fraction": "0.000"},
        {"fraction": "0.1"},
        {"evalSteps": 3},
        {"evalSteps": 9, "keepBest": True},
        {"evalSteps": 10, "earlyStopping": {}},
    ),
    "checkpoint": ({}, {"keep": 2}, {"keep": 3}),
    "deepspeed": (
        {},
        {"zeroStage": 2},
        {"zeroStage": 1},
        {"zeroStage": 3, "config": {"zero_optimization": {"zero_hpz_partition_size": 2}}},
        {"zeroStage": 3, "config": {"zero_optimization": {"zero_hpz_partition_size": 3}}},
    ),
    "packing": (False, True),
}
_EXPORT: Choices = {
    "outType": ("BF16", "F16"),
    "quantizations": (["Q4_K_M"], ["Q8_0", "F16"], ["IQ2_XXS"], ["TQ1_0"], ["F16", "F16"]),
    "importanceMatrix": ("Auto", "Always", "Never"),
    "keepMerged": (False, True),
}
_OLLAMA: Choices = {
    "model": ("m", f"m:{'x' * 70}", f"m:{'x' * 71}", "a/m:LOCAL", "h/a/m:x-Cloud", "m:cloudy"),
    "parameters": ({}, {"temperature": "0.70"}, {"stop": ["a"]}),
    "servers": (["a", "b"], ["a", "a"]),
}


def some(choose: random.Random, table: Choices, share: float) -> dict[str, Any]:
    """Return a value for each of some fields."""
    return {name: choose.choice(values) for name, values in table.items() if choose.random() < share}


def mixed(choose: random.Random) -> dict[str, Any]:
    """Return a job of fields that may not go together."""
    data = job_data()
    share = choose.choice((0.03, 0.1, 0.25))
    spec: dict[str, Any] = {"model": choose.choice(_MODELS), "ollama": {"model": "m", **some(choose, _OLLAMA, 0.1)}}
    if "gguf" not in spec["model"] or choose.random() < 0.2:
        datasets = [{"name": name, **choose.choice(_SOURCES), **some(choose, _DATASET, share)} for name in ("a", "b")]
        spec["datasets"] = datasets[: choose.choice((0, 1, 1, 1, 2))]
    if choose.random() < 0.7:
        spec["training"] = some(choose, _TRAINING, share)
    if choose.random() < 0.3:
        spec["export"] = some(choose, _EXPORT, 0.4)
    copied: dict[str, Any] = json.loads(json.dumps({**data, "spec": spec}))  # nothing is part of it twice
    return copied


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """An API server that has the CRD."""
    with api_server(tmp_path_factory.mktemp("mixes") / "server") as server:
        server.kubectl("apply", "--server-side", "--filename=-", objects=custom_resource_definition())
        found = Jobs(server)
        found.wait_until_served()
        yield found


@pytest.mark.parametrize("seed", _SEEDS)
def test_both_take_the_same_jobs(jobs: Jobs, seed: int) -> None:
    """What one of the two refuses the other one refuses; what both take means the same to the operator."""
    choose = random.Random(seed)  # noqa: S311 - it keeps no secret
    taken = 0
    for _ in range(_JOBS_EACH):
        data = mixed(choose)
        try:
            mine = parse_job(dump(data)).spec
        except InvalidJobError:
            with pytest.raises(RefusedError):
                jobs.create(data, dry=True)
            continue
        assert parse_object(jobs.create(data, dry=True))[0].spec == mine
        taken += 1
    assert 0 < taken < _JOBS_EACH
