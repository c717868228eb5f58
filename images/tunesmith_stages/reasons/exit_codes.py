"""Exit codes of the stage programs: the classes of failure."""

from __future__ import annotations

import enum

from tunesmith_stages.reasons.retry import AT_ONCE, LATER, NEVER, Retry


class ExitCode(enum.IntEnum):
    """Exit codes of the stage programs, by class of failure, in the manner of BSD's sysexits.h."""

    OK = 0
    BAD_DATA = 65
    MISSING_INPUT = 66
    UNAVAILABLE = 69
    INTERNAL = 70
    NO_SPACE = 74
    TEMPORARY = 75
    NO_PERMISSION = 77
    BAD_CONFIG = 78
    OUT_OF_MEMORY = 79
    GATE_FAILED = 80
    INTERRUPTED = 81

    @property
    def retry(self) -> Retry:
        """What becomes of work that ends with it, unless the reason says otherwise."""
        return _RETRIES.get(self, NEVER)


_RETRIES = {
    ExitCode.UNAVAILABLE: LATER,
    ExitCode.NO_SPACE: LATER,
    ExitCode.TEMPORARY: LATER,
    ExitCode.INTERRUPTED: AT_ONCE,
}
