"""Prometheus metrics of the operator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

RECONCILES = Counter(
    "tunesmith_reconciles_total",
    "Times that a FineTuneJob was looked at, by what came of it.",
    ["outcome"],
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "tunesmith_reconcile_duration_seconds",
    "How long looking at a FineTuneJob took.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge("tunesmith_queue_depth", "FineTuneJobs that wait for a worker.", registry=REGISTRY)
JOBS = Gauge(
    "tunesmith_finetunejobs", "FineTuneJobs, by the reason of their Ready condition.", ["reason"], registry=REGISTRY
)
STAGES_STARTED = Counter(
    "tunesmith_stages_started_total", "Child Jobs that were created.", ["stage"], registry=REGISTRY
)
STAGES_FINISHED = Counter(
    "tunesmith_stages_finished_total",
    "Stages that ended, by what came of them (the failure's reason, Succeeded or Cached).",
    ["stage", "reason"],
    registry=REGISTRY,
)
MODELS_REMOVED = Counter(
    "tunesmith_models_removed_total",
    "Models that were removed from Ollama because their FineTuneJob was deleted with `deletionPolicy: Delete`.",
    registry=REGISTRY,
)
MODELS_LEFT_BEHIND = Counter(
    "tunesmith_models_left_behind_total",
    "Models that should have been removed from Ollama with their FineTuneJob and may still be there, by why.",
    ["reason"],
    registry=REGISTRY,
)
API_ERRORS = Counter(
    "tunesmith_api_errors_total", "Requests that the API server refused.", ["status"], registry=REGISTRY
)
LEADER = Gauge("tunesmith_leader", "1 if this replica holds the Lease.", registry=REGISTRY)
SYNCED = Gauge(
    "tunesmith_last_sync_timestamp_seconds", "When the cache was last compared with full lists.", registry=REGISTRY
)

_PROGRESS = {
    "done": ("steps", "Steps that are done."),
    "total": ("steps_planned", "Steps that there are."),
    "etaSeconds": ("eta_seconds", "Time that is left."),
    "loss": ("loss", "Newest training loss."),
    "evalLoss": ("eval_loss", "Newest loss on rows held out."),
    "gradNorm": ("grad_norm", "Newest length of the gradient, before it is clipped."),
    "learningRate": ("learning_rate", "Newest learning rate."),
    "tokensPerSecond": ("tokens_per_second", "Newest speed, over all processes."),
    "gpuMemoryBytes": ("gpu_memory_bytes", "Memory that tensors take on the fullest GPU."),
    "peakGpuMemoryBytes": ("gpu_memory_peak_bytes", "The most that they took there so far."),
}
TRAININGS = {
    name: Gauge(
        f"tunesmith_training_{metric}",
        f"{words} Of trainings that run.",
        ["namespace", "finetunejob"],
        registry=REGISTRY,
    )
    for name, (metric, words) in _PROGRESS.items()
}
"""What the status of a FineTuneJob tells of a training that runs. A label `job` would be Prometheus's own."""


def show_training(namespace: str, name: str, item: Mapping[str, Any] | None) -> None:
    """Show what the status of a FineTuneJob tells of its training; nothing of a job that is gone or does not train."""
    progress = ((item or {}).get("status") or {}).get("progress") or {}
    trains = progress.get("stage") == "train" and "total" in progress
    for field, gauge in TRAININGS.items():
        value = _number(progress.get(field)) if trains else None
        if value is not None:
            gauge.labels(namespace, name).set(value)
        else:
            gauge.remove(namespace, name)


def _number(value: object) -> float | None:
    """Return a number of a status, which are texts where they are fractions; None if it is none."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
