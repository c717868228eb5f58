"""How far a running program is, read from the last lines that it wrote (``tunesmith_stages.program.Progress``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_METRICS = {
    "loss": "loss",
    "evalLoss": "evalLoss",
    "learningRate": "learningRate",
    "tokensPerSecond": "tokensPerSecond",
}
_CHECKPOINT_SECONDS = "checkpointSeconds"
_ETA_SECONDS = "etaSeconds"
MAX_TEXT = 120


def read_progress(log: str) -> dict[str, Any]:
    """Return ``status.progress`` as the last lines of a log tell it; empty if they tell nothing."""
    progress: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    for event in _events(log):
        if "note" in event:
            progress["text"] = str(event["note"])[:MAX_TEXT]
        if _counts(event):
            progress |= {"done": int(event["done"]), "total": int(event["total"]), "of": str(event.get("of", ""))[:40]}
            progress["text"] = percentage(event["done"], event["total"])
        if isinstance(event.get("metrics"), Mapping):
            metrics |= {str(k): float(v) for k, v in event["metrics"].items() if isinstance(v, int | float)}
        progress |= {"stage": str(event["stage"]), "unit": str(event.get("unit", ""))[:80]}
    progress |= {theirs: _decimal(metrics[ours]) for ours, theirs in _METRICS.items() if ours in metrics}
    if _ETA_SECONDS in metrics:
        seconds = max(0, round(metrics[_ETA_SECONDS]))
        progress |= {"etaSeconds": seconds, "eta": duration(seconds)}
    return progress


def checkpoint_seconds(log: str) -> int:
    """Return the longest time that a checkpoint took to be saved, rounded up; 0 if `log` does not tell."""
    seconds = [event.get("metrics", {}).get(_CHECKPOINT_SECONDS, 0) for event in _events(log)]
    return -int(-max(seconds, default=0) // 1)


def _events(log: str) -> list[dict[str, Any]]:
    events = []
    for line in log.splitlines():
        if not line.startswith("{"):
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "stage" in event:
            events.append(event)
    return events


def _counts(event: Mapping[str, Any]) -> bool:
    done, total = event.get("done"), event.get("total")
    return isinstance(done, int | float) and isinstance(total, int | float) and total > 0


def percentage(done: float, total: float) -> str:
    """Return a share in whole per cent; 100 % only when all is done."""
    return f"{min(int(100 * done / total), 100)} %"


def _decimal(value: float) -> str:
    return f"{value:.4g}"


def duration(seconds: int) -> str:
    """Return a time as kubectl writes ages: the two largest units that matter."""
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours}h{minutes:02d}m" if hours < 48 else f"{hours // 24}d{hours % 24}h"
