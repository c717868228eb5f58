"""Times as Kubernetes writes them: RFC 3339, UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime


def to_text(time: datetime) -> str:
    """Return a time as Kubernetes writes it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_time(text: str) -> datetime | None:
    """Return the time that a text names, or None if it names none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def seconds_between(start: str, end: str) -> int:
    """Return the whole seconds from one time to another; 0 if one of them is not known."""
    began, ended = to_time(start), to_time(end)
    return max(0, int((ended - began).total_seconds())) if began and ended else 0
