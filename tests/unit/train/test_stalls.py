from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train import stalls

HANGS = StageError(ExitCode.TEMPORARY, "nothing happened", reason="TrainingStalled", hint="It is tried again.")


def checkpoint(folder: Path, step: int) -> None:
    (folder / f"step-{step}").mkdir()


def test_the_third_time_at_the_same_place_is_the_last(tmp_path: Path) -> None:
    """What hangs again and again waits for somebody; asked for once more, it gets as many tries again."""
    checkpoint(tmp_path, 20)
    for _ in range(2):
        codes = [stalls.bounded(tmp_path, HANGS).code for _ in range(3)]
        assert codes == [ExitCode.TEMPORARY, ExitCode.TEMPORARY, ExitCode.BAD_CONFIG]
    for _ in range(2):
        stalls.bounded(tmp_path, HANGS)
    last = stalls.bounded(tmp_path, HANGS)
    assert last.reason == "TrainingStalled"
    assert "nothing happened" in str(last)
    assert "3 times in a row, each time after step 20" in str(last)
    assert "ddpTimeoutSeconds" in last.hint


def test_a_new_checkpoint_begins_the_count_anew(tmp_path: Path) -> None:
    """A training that gets on between its stalls may have as many as it takes."""
    for step in range(10, 60, 10):
        checkpoint(tmp_path, step)
        for _ in range(2):
            assert stalls.bounded(tmp_path, HANGS) is HANGS


@pytest.mark.parametrize("reason", ["GpuFault", "GpuBusy", "NcclFailed", "ConnectionLost"])
def test_what_holds_gpus_in_vain_has_an_end(tmp_path: Path, reason: str) -> None:
    """It may pass, and a broken GPU or network does not: also before there was anything to save."""
    error = StageError(ExitCode.TEMPORARY, "it failed", reason=reason)
    endings = [stalls.bounded(tmp_path / "not" / "there", error) for _ in range(3)]
    assert [ending.code for ending in endings] == [ExitCode.TEMPORARY, ExitCode.TEMPORARY, ExitCode.BAD_CONFIG]
    assert endings[-1].reason == reason
    assert "have it tried again" in endings[-1].hint


def test_other_errors_pass(tmp_path: Path) -> None:
    """Only what hangs is counted."""
    other = StageError(ExitCode.TEMPORARY, "a node is gone", reason="NodeLost")
    for _ in range(5):
        assert stalls.bounded(tmp_path, other) is other


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"step": 0}', '{"step": 0, "count": "x"}'])
def test_a_count_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    """Whatever a crash has left, the attempt ends for its own reason."""
    (tmp_path / stalls.FILE).write_text(text)
    assert stalls.bounded(tmp_path, HANGS) is HANGS


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The attempt ends for its own reason, not for that."""
    (tmp_path / "file").touch()
    for _ in range(2):
        assert stalls.bounded(tmp_path / "file", HANGS) is HANGS
