"""The day on which chat templates that write the date (`strftime_now`) are rendered for training: always the same.

So the same inputs make the same rows on any day. Whoever serves the model tells the template the day that it is.
"""

from __future__ import annotations

from datetime import UTC, datetime

DAY = datetime(2024, 7, 26, tzinfo=UTC)
"""The one that Llama 3's templates name where there is no clock."""


def strftime_in_training(form: str) -> str:
    """Stand for the `strftime_now` of chat templates."""
    return DAY.strftime(form)
