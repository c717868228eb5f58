"""What Prometheus is told of clean-ups."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tunesmith.gc_metrics import show_clean_ups
from tunesmith.metrics import REGISTRY

TOLD = json.dumps({"freedBytes": 5, "uselessBytes": 7, "keptBytes": 11, "removed": 2, "failed": 0})


def pod(second: int, message: str = TOLD, code: int = 0, **state: Any) -> dict[str, Any]:
    """Return the pod of a clean-up that ended in this second of a minute."""
    end = {"terminated": {"finishedAt": f"2026-11-22T03:17:{second:02d}Z", "exitCode": code, "message": message}}
    return {
        "metadata": {"namespace": "team-a", "labels": {"tunesmith.dev/gc": "gc-1"}},
        "status": {"containerStatuses": [{"state": state or end}]},
    }


def shown(*pods: dict[str, Any]) -> dict[str, float]:
    """Return what is shown with these pods there."""
    show_clean_ups(pods)
    return {
        sample.name.removeprefix("tunesmith_gc_"): sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.labels == {"namespace": "team-a", "cronjob": "gc-1"}
    }


ENDED = {"freed_bytes": 5, "useless_bytes": 7, "kept_bytes": 11, "failed": 0}
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, float]]] = {
    "one that ended": ([pod(1)], {**ENDED, "last_end_timestamp_seconds": 1795317421}),
    "the newest of several": (
        [pod(1, "{}"), pod(3), pod(2, "", 69)],
        {**ENDED, "last_end_timestamp_seconds": 1795317423},
    ),
    "one that failed and told nothing": ([pod(1, "", 69)], {"failed": 1, "last_end_timestamp_seconds": 1795317421}),
    "one that runs": ([pod(1, running={})], {}),
    "one whose message is something else": (
        [pod(1, "[1]")],
        {"failed": 0, "last_end_timestamp_seconds": 1795317421},
    ),
    "none": ([], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_shown(case: str) -> None:
    """The newest clean-up that has ended shows its figures; of those before nothing is left."""
    shown(pod(9))
    pods, expected = CASES[case]
    assert shown(*pods) == expected
