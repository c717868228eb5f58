"""What people ask for by an annotation of a FineTuneJob: another try, or to look at the sources again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.api.keys import LONGEST_ANNOTATION, REFRESH_ANNOTATION, RETRY_ANNOTATION

_FOLLOWED = {RETRY_ANNOTATION: "retry", REFRESH_ANNOTATION: "refresh"}
"""Where the status holds the value that was followed last."""


def asked(annotation: str, meta: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """Return what an annotation asks for: other than what the status holds if it has not been followed yet.

    One that was taken away asks for nothing. Flux takes away what `kubectl annotate` added.
    """
    value = (meta.get("annotations") or {}).get(annotation) or status.get(_FOLLOWED[annotation]) or ""
    return str(value)[:LONGEST_ANNOTATION]
