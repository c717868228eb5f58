"""Events: what people are told about a FineTuneJob besides its status."""

from __future__ import annotations

import platform
import secrets
from datetime import datetime

from tunesmith.api import keys
from tunesmith.core.conditions import Note
from tunesmith.core.times import to_text
from tunesmith.kube.cluster import FINETUNEJOBS, Object
from tunesmith_stages.contract import digest_of

_DIGITS = 16


def event(item: Object, note: Note, now: datetime, *, once: bool = False) -> Object:
    """Return the Event that tells of a FineTuneJob.

    Args:
        item: the FineTuneJob.
        note: what is told.
        now: when.
        once: told again, it is the same Event, as there is one name for each reason: the first one stays.
    """
    meta, when = item["metadata"], to_text(now)
    digits = digest_of([meta["uid"], note.reason])[:_DIGITS] if once else secrets.token_hex(_DIGITS // 2)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{digits}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": FINETUNEJOBS.api_version,
            "kind": FINETUNEJOBS.kind,
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "resourceVersion": meta.get("resourceVersion", ""),
        },
        "type": note.type,
        "reason": note.reason,
        "message": note.message,
        "source": {"component": keys.FIELD_MANAGER},
        "reportingComponent": keys.FIELD_MANAGER,
        "reportingInstance": platform.node(),
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }
