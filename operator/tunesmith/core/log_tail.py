"""The last lines of a log, as they stand in a status: few, short, without secrets, for people alone.

Whoever may read a FineTuneJob reads them, and that are more people than may read logs or Secrets. Programs of ours
print no secret; libraries, or a proxy's answer, may.
"""

from __future__ import annotations

import json
import re

LINES = 20
MOST_BYTES = 2048
"""Of UTF-8, and so many characters at most."""
_LONGEST_LINE = 300
"""Characters; of a longer line the beginning and the end are kept."""
_CUT = " ... "

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HIDDEN = "***"
_SECRETS = (
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),  # in a URL: user:password
    re.compile(r"(?i)(?<=bearer )\S+|(?<=basic )[A-Za-z0-9+/=]{8,}"),
    re.compile(r"\b(?:hf_|ms-|ghp_|github_pat_|glpat-|sk-|AKIA)[A-Za-z0-9_-]{12,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),  # a JSON Web Token
    re.compile(
        r"(?i)(?<![A-Za-z0-9])((?:[a-z0-9]*[_-])*(?:token|password|passwd|secret|api[_-]?key)[\"']?\s*[=:]\s*[\"']?)"
        r"(?!\*)[^\s\"',;&]{4,}"
    ),
)


def tail_of(log: str) -> str:
    """Return the end of a log: at most :data:`LINES` lines and :data:`MOST_BYTES`, without lines for machines."""
    lines = [_shown(line) for line in log.split("\n") if line.strip() and not _is_progress(line)]
    kept: list[str] = []
    room = MOST_BYTES + 1  # no newline ends the last line
    for line in reversed([line for line in lines if line][-LINES:]):
        room -= len(line.encode()) + 1
        if room < 0:
            break
        kept.insert(0, line)
    return "\n".join(kept)


def _is_progress(line: str) -> bool:
    """Tell whether a line is an event of the program's progress, which the status holds in a field of its own."""
    if not line.lstrip().startswith("{"):
        return False
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and "stage" in event


def _shown(line: str) -> str:
    """Return a line without secrets and without what would control a terminal, and not too long."""
    line = line.rstrip("\r").rpartition("\r")[2]  # what a progress bar showed last
    for pattern in _SECRETS:
        line = pattern.sub(lambda found: (found[1] if found.re.groups else "") + _HIDDEN, line)
    line = "".join(letter if letter.isprintable() else " " for letter in _COLOURS.sub("", line)).rstrip()
    if len(line) > _LONGEST_LINE:
        half = (_LONGEST_LINE - len(_CUT)) // 2
        line = f"{line[:half]}{_CUT}{line[-half:]}"
    return line
