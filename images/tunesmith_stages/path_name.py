"""The rule for names of jobs and attempts, which are names of folders on the volume."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


def is_name(text: str) -> bool:
    """Tell whether a text can be the name of a job or an attempt: one part of a path, which leads nowhere else."""
    return _NAME.fullmatch(text) is not None
