"""What can go wrong in a stage, and what it means to the person who reads of it."""

from __future__ import annotations

import errno
import shutil

from tunesmith_stages.contract import FAILURE_CLASSES, ExitCode, Failure
from tunesmith_stages.reasons import recognised
from tunesmith_stages.reasons.disk import DISK
from tunesmith_stages.reasons.row import Where
from tunesmith_stages.volume import UnsafePathError, Volume

_FULL = 4 * 1024 * 1024  # bytes: a volume with less is full


class StageError(Exception):
    """A stage cannot go on. Says why in words for the person who wrote the job.

    Attributes:
        code: class of the failure, which is also the exit code.
        reason: one CamelCase word; the class's own where none is given.
        message: what happened and where (file and row, field, server), and what would be allowed.
        hint: what to do next; the class's own where none is given.
    """

    def __init__(self, code: ExitCode, message: str, *, reason: str = "", hint: str = "") -> None:
        super().__init__(message)
        kind = FAILURE_CLASSES[code]
        self.code = code
        self.reason = reason or kind.name
        self.message = message
        self.hint = hint or kind.hint

    def failure(self) -> Failure:
        """Return the record that is left for the edge."""
        return Failure(self.code, self.reason, self.message, self.hint)


class InterruptedStage(BaseException):
    """Somebody asked the stage to stop. Not an `Exception`, so that no handler takes it for a fault of the data."""


def classify(error: BaseException) -> Failure:
    """Return what an exception means to a person: every class of failure that is known, else an internal error."""
    if isinstance(error, StageError):
        return _of_the_disk(error) or error.failure()
    if isinstance(error, InterruptedStage):
        return StageError(ExitCode.INTERRUPTED, str(error)).failure()
    if isinstance(error, UnsafePathError):
        hint = "Give a path below the volume's root, without links that lead elsewhere (`volume.path`)."
        return StageError(ExitCode.BAD_CONFIG, str(error), reason="UnsafePath", hint=hint).failure()
    if isinstance(error, MemoryError):
        return StageError(ExitCode.OUT_OF_MEMORY, "the program ran out of memory").failure()
    text = f"{type(error).__name__}: {error}"
    if (known := recognised(Where.LOG, text=text)) is not None:
        return Failure.of(known, text)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return StageError(ExitCode.NO_SPACE, text).failure()
    if isinstance(error, PermissionError):
        return StageError(ExitCode.NO_PERMISSION, text).failure()
    if number in (errno.ESTALE, errno.ETIMEDOUT):  # a network file system, whose server moved on or is away
        return StageError(ExitCode.TEMPORARY, text).failure()
    return StageError(ExitCode.INTERNAL, text).failure()


def _of_the_disk(error: StageError) -> Failure | None:
    """Return the failure of the disk behind an error that says that something is wrong for good; None: there is none.

    What was concluded from a file says nothing if the disk did not give it: a tokenizer that could not be loaded, rows
    that could not be read.
    """
    cause = None if error.code.retry.tried else error.__cause__ or error.__context__
    while cause is not None:
        known = recognised(Where.LOG, text=str(cause)) if not isinstance(cause, StageError) else None
        if known in DISK:
            return Failure.of(known, error.message)
        cause = cause.__cause__ or cause.__context__
    return None


def blame_full_disk(failure: Failure, volume: Volume) -> Failure:
    """Return the failure as one of space, if nothing else is known and the volume is full to the brim.

    Not every library says why a write failed: torch.save ends in `basic_ios::clear: iostream error`.
    """
    if failure.code is not ExitCode.INTERNAL:
        return failure
    try:
        free = shutil.disk_usage(volume.root).free
    except OSError:
        return failure
    if free > _FULL:
        return failure
    last = failure.message.strip().splitlines()[-1]
    return StageError(
        ExitCode.NO_SPACE, f"the volume is full ({free:,} bytes are free); it ended with: {last}"
    ).failure()
