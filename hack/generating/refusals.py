"""Jobs in which each field is right and two of them do not go together, and what the parser says to them."""

from __future__ import annotations

import json
from typing import Any

from tunesmith.api.kube_yaml import dump
from tunesmith.api.parse import InvalidJobError, Problem, parse_job

_VALID: dict[str, Any] = {
    "apiVersion": "tunesmith.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "example"},
    "spec": {
        "model": {"volume": {"path": "models/base"}},
        "datasets": [{"name": "faq", "volume": {"path": "data/faq.json"}}],
        "ollama": {"model": "example"},
    },
}
_IDENTITY = {"name": "faq", "builtin": "SelfCognition", "substitutions": {"name": "Tunny", "author": "Acme"}}
_GROUPS_OF_3 = {"zero_optimization": {"zero_hpz_partition_size": 3}}
_CHECK = {"name": "check", "volume": {"path": "data/check.json"}, "use": "Validation"}

CASES: tuple[dict[str, Any], ...] = (
    {"datasets": [{"name": "faq"}]},
    {"datasets": [_VALID["spec"]["datasets"][0] | {"languages": ["en"]}]},
    {"datasets": [_IDENTITY | {"format": "Messages"}]},
    {"datasets": [_IDENTITY | {"substitutions": {}}]},
    {"datasets": [_IDENTITY, _IDENTITY]},
    {"datasets": [_VALID["spec"]["datasets"][0] | {"columns": {"prompt": "q", "messages": "m"}}]},
    {"datasets": [_VALID["spec"]["datasets"][0] | {"format": "Messages", "columns": {"prompt": "q"}}]},
    {"datasets": [_VALID["spec"]["datasets"][0] | {"format": "Alpaca", "columns": {"messages": "m"}}]},
    {"datasets": [{"name": "faq", "inline": [{"text": "a"}], "datasetInfo": "faq"}]},
    {"datasets": [_VALID["spec"]["datasets"][0] | {"format": "Messages", "tags": {"role": "who"}}]},
    {"datasets": [_VALID["spec"]["datasets"][0] | {"use": "Validation"}]},
    {"datasets": [_VALID["spec"]["datasets"][0] | {"weight": "1000"}]},
    {"model": {"volume": {"path": "a"}, "gguf": {"path": "b.gguf"}}},
    {"model": {"gguf": {"path": "b.gguf"}}},
    {"model": {"gguf": {"path": "b.gguf"}, "chatTemplate": {"name": "qwen"}}, "datasets": []},
    {"model": {"job": {"name": "example"}}},
    {"model": {"huggingFace": {"repo": "a/b", "revision": "v1/../v2"}}},
    {"model": {"huggingFace": {"repo": "a/b", "tokenSecretRef": {"name": "database"}}}},
    {"model": {"volume": {"path": "a"}, "chatTemplate": {"name": "qwen", "jinja": "{{ messages }}"}}},
    {"training": {"finetuningType": "Full", "lora": {"rank": 8}}},
    {"training": {"lora": {"targetModules": ["AllLinear", "q_proj"]}}},
    {"training": {"gpusPerNode": 0, "precision": "FP16"}},
    {"training": {"gpusPerNode": 2, "processesPerNode": 2}},
    {"training": {"numTrainEpochs": "1", "maxSteps": 10}},
    {"training": {"warmupSteps": 500, "maxSteps": 100}},
    {"training": {"validation": {"evalSteps": 500, "keepBest": True}, "maxSteps": 100}},
    {"training": {"deepspeed": {"zeroStage": 3, "config": _GROUPS_OF_3}, "gpusPerNode": 4}},
    {"training": {"numTrainEpochs": "0"}},
    {"training": {"learningRate": "0"}},
    {"training": {"validation": {"fraction": "0.1"}}, "datasets": [_VALID["spec"]["datasets"][0], _CHECK]},
    {"export": {"quantizations": ["Q8_0", "Q8_0"]}},
    {"export": {"quantizations": ["IQ2_XXS"], "importanceMatrix": "Never"}},
    {"export": {"quantizations": ["TQ1_0"]}},
    {"model": {"gguf": {"path": "b.gguf"}}, "datasets": [], "export": {"quantizations": ["IQ2_XXS"]}},
    {"export": {"quantizations": ["Q8_0", "Q4_0"]}, "ollama": {"model": f"example:{'x' * 74}"}},
    {"ollama": {"model": "example:cloud"}},
    {"ollama": {"model": "example", "servers": ["main", "main"]}},
    {"pods": {"train": {"env": [{"name": "NCCL_NET_PLUGIN", "value": "/data/plugin.so"}]}}},
    {"pods": {"train": {"labels": {"tunesmith.dev/job": "another"}}}},
    {"pods": {"train": {"labels": {"app": "shop"}}}},
    {"pods": {"train": {"annotations": {"sidecar.istio.io/proxyImage": "example.com/any:1"}}}},
    {"scheduling": {"priorityClassName": "system-node-critical"}},
    {"pods": {"default": {"tolerations": [{"key": "gpu", "operator": "Exists", "value": "a100"}]}}},
    {"pods": {"default": {"tolerations": [{"effect": "NoExecute"}]}}},
    {"pods": {"default": {"tolerations": [{"key": "gpu", "tolerationSeconds": 60}]}}},
)
"""What each case changes in the spec of a valid job."""


def refusals() -> list[Problem]:
    """Return the problem of each case."""
    return [refusal_of(case) for case in CASES]


def job_of(case: dict[str, Any]) -> dict[str, Any]:
    """Return the job with a case's mistake."""
    data: dict[str, Any] = json.loads(json.dumps(_VALID))  # a copy, which nothing else is part of
    data["spec"] |= json.loads(json.dumps(case))
    return data


def refusal_of(case: dict[str, Any]) -> Problem:
    """Return what the parser says to a case.

    Raises:
        ValueError: the case is valid, or has more than one problem.
    """
    try:
        parse_job(dump(job_of(case)))
    except InvalidJobError as error:
        (problem,) = error.problems
        return problem
    raise ValueError(f"this is valid: {case}")
