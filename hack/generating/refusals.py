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

CASES: tuple[dict[str, Any], ...] = (
    {"datasets": [{"name": "faq"}]},
    {"datasets": [_VALID["spec"]["datasets"][0] | {"languages": ["en"]}]},
    {"datasets": [_IDENTITY | {"format": "Messages"}]},
    {"datasets": [_IDENTITY | {"substitutions": {}}]},
    {"datasets": [_IDENTITY, _IDENTITY]},
    {"training": {"finetuningType": "Full", "lora": {"rank": 8}}},
    {"training": {"lora": {"targetModules": ["AllLinear", "q_proj"]}}},
    {"training": {"gpusPerNode": 0, "precision": "FP16"}},
    {"training": {"gpusPerNode": 2, "processesPerNode": 2}},
    {"training": {"numTrainEpochs": "1", "maxSteps": 10}},
    {"training": {"numTrainEpochs": "0"}},
    {"training": {"learningRate": "0"}},
    {"export": {"quantizations": ["Q8_0", "Q8_0"]}},
)
"""What each case changes in the spec of a valid job."""


def refusals() -> list[Problem]:
    """Return the problem of each case.

    Raises:
        ValueError: a case is valid, or has more than one problem.
    """
    return [_refusal(case) for case in CASES]


def _refusal(case: dict[str, Any]) -> Problem:
    spec = {**_VALID["spec"], **case}
    without_aliases = json.loads(json.dumps({**_VALID, "spec": spec}))
    try:
        parse_job(dump(without_aliases))
    except InvalidJobError as error:
        (problem,) = error.problems
        return problem
    raise ValueError(f"this is valid: {case}")
