"""What the clean-ups of volumes came to, for Prometheus.

A CronJob's pod is gone before anybody could ask it for metrics. So the operator shows what the newest one of each
CronJob has left as its termination message: values of now, not counters, as it may itself start anew at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import Gauge

from tunesmith.api.keys import GC_LABEL
from tunesmith.metrics import REGISTRY

_LABELS = ["namespace", "cronjob"]
_FIGURES = {
    "freedBytes": Gauge(
        "tunesmith_gc_freed_bytes", "What the last clean-up of a volume has freed.", _LABELS, registry=REGISTRY
    ),
    "uselessBytes": Gauge("tunesmith_gc_useless_bytes", "What it found that nobody needs.", _LABELS, registry=REGISTRY),
    "keptBytes": Gauge("tunesmith_gc_kept_bytes", "What it found that stays.", _LABELS, registry=REGISTRY),
}
_ENDED = Gauge(
    "tunesmith_gc_last_end_timestamp_seconds", "When the last clean-up of a volume ended.", _LABELS, registry=REGISTRY
)
_FAILED = Gauge(
    "tunesmith_gc_failed", "1 if the last clean-up of a volume did not come to its end.", _LABELS, registry=REGISTRY
)


def show_clean_ups(pods: Iterable[Mapping[str, Any]]) -> None:
    """Show what the newest pod that has ended tells, of each CronJob; nothing of those that have none any more."""
    newest: dict[tuple[str, str], tuple[float, Mapping[str, Any]]] = {}
    for pod in pods:
        meta = pod["metadata"]
        place = (str(meta["namespace"]), str((meta.get("labels") or {}).get(GC_LABEL, "")))
        end = _end_of(pod)
        if end is not None and end[0] >= newest.get(place, end)[0]:
            newest[place] = end
    for gauge in (*_FIGURES.values(), _ENDED, _FAILED):
        gauge.clear()
    for place, (when, how) in newest.items():
        _ENDED.labels(*place).set(when)
        _FAILED.labels(*place).set(how.get("exitCode") != 0)
        for name, number in _told(how).items():
            _FIGURES[name].labels(*place).set(number)


def _end_of(pod: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]] | None:
    """Return when a pod's only container ended, and how; None if it has not."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        end = (status.get("state") or {}).get("terminated")
        if end:
            try:
                return datetime.fromisoformat(str(end.get("finishedAt"))).timestamp(), end
            except ValueError:
                return None
    return None


def _told(end: Mapping[str, Any]) -> dict[str, float]:
    try:
        said = json.loads(end.get("message") or "")
    except ValueError:
        return {}
    if not isinstance(said, dict):
        return {}
    return {name: said[name] for name in _FIGURES if isinstance(said.get(name), int)}
