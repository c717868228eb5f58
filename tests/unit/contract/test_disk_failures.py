"""A disk that fails is what failed, whatever a stage made of it."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode, Failure
from tunesmith_stages.failures import StageError, classify
from tunesmith_stages.preconditions import require_writable
from tunesmith_stages.program import read_config
from tunesmith_stages.tools import require_success
from tunesmith_stages.train.causes import root_cause


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/volume/x")


ERRORS: Mapping[str, tuple[BaseException, ExitCode, str]] = {
    "read-only": (os_error(errno.EROFS), ExitCode.NO_SPACE, "VolumeReadOnly"),
    "I/O error": (os_error(errno.EIO), ExitCode.TEMPORARY, "VolumeFails"),
    "full": (os_error(errno.ENOSPC), ExitCode.NO_SPACE, "NoSpace"),
    "over quota": (os_error(errno.EDQUOT), ExitCode.NO_SPACE, "NoSpace"),
    "I/O error in Rust": (ValueError("Input/output error (os error 5)"), ExitCode.TEMPORARY, "VolumeFails"),
    "none": (ValueError("no tokenizer"), ExitCode.INTERNAL, "InternalError"),
}


@pytest.mark.parametrize(("error", "code", "reason"), ERRORS.values(), ids=ERRORS)
def test_error(error: BaseException, code: ExitCode, reason: str) -> None:
    """Each has a reason of its own, of a class that is tried again."""
    failure = classify(error)
    assert (failure.code, failure.reason) == (code, reason)
    assert code.retry.tried or reason == "InternalError"


CONCLUDED: Mapping[str, tuple[BaseException, ExitCode, str]] = {
    "from an I/O error": (os_error(errno.EIO), ExitCode.TEMPORARY, "VolumeFails"),
    "from a read-only disk": (os_error(errno.EROFS), ExitCode.NO_SPACE, "VolumeReadOnly"),
    "from what is in the file": (ValueError("not JSON"), ExitCode.BAD_DATA, "TokenizerMissing"),
}


@pytest.mark.parametrize(("cause", "code", "reason"), CONCLUDED.values(), ids=CONCLUDED)
def test_conclusion(cause: BaseException, code: ExitCode, reason: str) -> None:
    """What a stage concludes from a file that the disk does not give is not the data's fault."""
    error = StageError(ExitCode.BAD_DATA, "no tokenizer can be loaded", reason="TokenizerMissing")
    error.__cause__ = cause
    failure = classify(error)
    assert (failure.code, failure.reason) == (code, reason)
    assert failure.message == "no tokenizer can be loaded"


def test_words_alone_conclude_nothing() -> None:
    """A sentence that speaks of such errors, as an answer of a model does, is none."""
    error = StageError(ExitCode.GATE_FAILED, "the model answers 'Input/output error'", reason="SmokeTestFailed")
    assert classify(error).reason == "SmokeTestFailed"


TOOLS: Mapping[str, tuple[int, str, ExitCode, str]] = {
    "I/O error": (1, "fwrite: Input/output error", ExitCode.TEMPORARY, "VolumeFails"),
    "read-only": (1, "failed to open: Read-only file system", ExitCode.NO_SPACE, "VolumeReadOnly"),
    "full": (1, "fwrite: No space left on device", ExitCode.NO_SPACE, "NoSpace"),
    "a mapped file": (-signal.SIGBUS, "", ExitCode.TEMPORARY, "FileUnreadable"),
    "killed": (-signal.SIGKILL, "", ExitCode.OUT_OF_MEMORY, "OutOfMemory"),
    "crashed": (-signal.SIGSEGV, "", ExitCode.INTERNAL, "ToolFailed"),
    "unknown": (1, "invalid argument", ExitCode.INTERNAL, "ToolFailed"),
}


@pytest.mark.parametrize(("status", "said", "code", "reason"), TOOLS.values(), ids=TOOLS)
def test_tool(tmp_path: Path, status: int, said: str, code: ExitCode, reason: str) -> None:
    """The same where a tool of others meets it."""
    log = tmp_path / "tool.log"
    log.write_text(said)
    with pytest.raises(StageError) as raised:
        require_success(status, log, "quantizing")
    assert (raised.value.code, raised.value.reason) == (code, reason)
    assert "quantizing" in raised.value.message


def test_ended_by_a_bus_error() -> None:
    """A container that ends so is tried again; one that crashes otherwise is not."""
    assert Failure.from_exit_code(128 + signal.SIGBUS).code is ExitCode.TEMPORARY
    assert Failure.from_exit_code(128 + signal.SIGSEGV).code is ExitCode.INTERNAL


def test_a_rank_ended_by_a_bus_error() -> None:
    """So is a training."""
    failure = root_cause([], {0: 0, 1: -signal.SIGBUS}, 1, "")
    assert (failure.code, failure.reason) == (ExitCode.TEMPORARY, "FileUnreadable")
    assert "rank 1" in failure.message


def test_nothing_can_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A read-only volume is not a matter of the user's rights."""

    def refused(*_: object, **__: object) -> None:
        raise os_error(errno.EROFS)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(OSError, match="Read-only") as raised:
        require_writable([tmp_path])
    assert classify(raised.value).reason == "VolumeReadOnly"


def test_stage_json_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is not a mistake in the job."""

    def refused(*_: object, **__: object) -> str:
        raise os_error(errno.EIO)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(OSError, match="Input/output") as raised:
        read_config(tmp_path / "stage.json")
    assert classify(raised.value).reason == "VolumeFails"
