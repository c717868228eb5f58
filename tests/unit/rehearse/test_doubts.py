"""What is said of settings that are no mistake and yet unwise."""

from __future__ import annotations

from typing import Any

import pytest

from support.builders import job
from tunesmith.core.plan import _estimated
from tunesmith_stages.rehearse.doubts import doubts

TRAINING = "spec.training"
UNWISE: dict[str, tuple[dict[str, Any], str]] = {
    "DPO at the rate of answers that are all good": (
        {f"{TRAINING}.method": "DPO"},
        "`learningRate` is 0.0001, and DPO with an adapter wants 5e-05 at most",
    ),
    "KTO with all weights": (
        {f"{TRAINING}.method": "KTO", f"{TRAINING}.finetuningType": "Full", f"{TRAINING}.learningRate": "1e-5"},
        "`learningRate` is 1e-05, and KTO with all weights wants 5e-06 at most",
    ),
    "a warm-up beyond the end": (
        {f"{TRAINING}.warmupSteps": 20},
        "`warmupSteps` is 20, and the training has 20 steps",
    ),
    "evaluations beyond the end": (
        {f"{TRAINING}.validation": {"evalSteps": 21, "keepBest": True}},
        "`validation.evalSteps` is 21, and the training has 20 steps",
    ),
}
WISE: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "ORPO, which is supervised besides": {f"{TRAINING}.method": "ORPO"},
    "DPO at a rate of its own": {f"{TRAINING}.method": "DPO", f"{TRAINING}.learningRate": "5e-6"},
    "a warm-up that ends": {f"{TRAINING}.warmupSteps": 19},
    "a warm-up by share": {f"{TRAINING}.warmupRatio": "0.9"},
    "evaluations that nothing goes by": {f"{TRAINING}.validation": {"evalSteps": 500}},
    "evaluations in between": {f"{TRAINING}.validation": {"evalSteps": 19, "earlyStopping": {}}},
}


@pytest.mark.parametrize("name", UNWISE)
def test_what_is_unwise_is_said(name: str) -> None:
    """What would ruin a model, or do nothing, is said with its numbers before hours are spent on it."""
    changes, words = UNWISE[name]
    (said,) = doubts(_estimated(job(changes)), 20)
    assert said.startswith(words)


@pytest.mark.parametrize("name", WISE)
def test_nothing_is_said_of_what_is_as_it_should_be(name: str) -> None:
    """A warning that comes with every job is read by nobody."""
    assert doubts(_estimated(job(WISE[name])), 20) == []
