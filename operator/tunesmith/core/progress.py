"""How far a running program is, read from the last lines that it wrote (``tunesmith_stages.program.Progress``).

Anybody may write lines into a log. What is not as it should be is passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_METRICS = {
    "loss": "loss",
    "evalLoss": "evalLoss",
    "learningRate": "learningRate",
    "gradNorm": "gradNorm",
    "tokensPerSecond": "tokensPerSecond",
}
_BYTES = {"gpuMemory": "gpuMemoryBytes", "peakGpuMemory": "peakGpuMemoryBytes"}
_CHECKPOINT_SECONDS = "checkpointSeconds"
_ETA_SECONDS = "etaSeconds"
MAX_TEXT = 120
_MOST_COUNTED = 2**53
_MOST_SECONDS = 2**31 - 1


@dataclass(frozen=True)
class Told:
    """What the last lines of a log tell."""

    progress: Mapping[str, Any] = field(default_factory=dict)
    """``status.progress``; empty if they tell nothing."""
    save_seconds: int = 0
    """Longest time that a checkpoint took to be saved, rounded up; 0 if they do not tell."""


def read_log(log: str) -> Told:
    """Return what the last lines of a log tell."""
    progress: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    saving = 0
    for event in _events(log):
        progress |= _counted(event)
        if isinstance(event.get("note"), str):  # what is done beside the counting says more than the share
            progress["text"] = _text(event["note"], MAX_TEXT)
        numbers = _numbers(event.get("metrics"))
        metrics |= numbers
        saving = max(saving, _seconds(math.ceil(numbers.get(_CHECKPOINT_SECONDS, 0))))
        progress |= {"stage": _text(event["stage"], 32), "unit": _text(event.get("unit"), 80)}
    progress |= {theirs: _decimal(metrics[ours]) for ours, theirs in _METRICS.items() if ours in metrics}
    progress |= {theirs: _count(metrics[ours]) for ours, theirs in _BYTES.items() if ours in metrics}
    if _ETA_SECONDS in metrics:
        seconds = _seconds(round(metrics[_ETA_SECONDS]))
        progress |= {"etaSeconds": seconds, "eta": duration(seconds)}
    return Told(progress, saving)


def _events(log: str) -> list[dict[str, Any]]:
    events = []
    for line in log.splitlines():
        if not line.startswith("{"):
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("stage"), str):
            events.append(event)
    return events


def _counted(event: Mapping[str, Any]) -> dict[str, Any]:
    done, total = _number(event.get("done")), _number(event.get("total"))
    if done is None or total is None or not (0 <= done <= _MOST_COUNTED and 0 < total <= _MOST_COUNTED):
        return {}
    counted = {"done": int(done), "total": int(total), "of": _text(event.get("of"), 40)}
    return {**counted, "text": percentage(done, total)}


def _numbers(metrics: object) -> dict[str, float]:
    if not isinstance(metrics, Mapping):
        return {}
    return {str(name): number for name, value in metrics.items() if (number := _number(value)) is not None}


def _number(value: object) -> float | None:
    """Return a finite number, or None: JSON as Python reads it has NaN, infinity, and integers of any length."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _seconds(number: int) -> int:
    return min(max(0, number), _MOST_SECONDS)


def _count(number: float) -> int:
    return min(max(0, int(number)), _MOST_COUNTED)


def _text(value: object, longest: int) -> str:
    """Return a text as the API server keeps it: half a surrogate pair would come back as something else."""
    return value[:longest].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


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
