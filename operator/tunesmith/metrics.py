"""Prometheus metrics of the operator."""

from __future__ import annotations

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
API_ERRORS = Counter(
    "tunesmith_api_errors_total", "Requests that the API server refused.", ["status"], registry=REGISTRY
)
LEADER = Gauge("tunesmith_leader", "1 if this replica holds the Lease.", registry=REGISTRY)
SYNCED = Gauge(
    "tunesmith_last_sync_timestamp_seconds", "When the cache was last compared with full lists.", registry=REGISTRY
)
