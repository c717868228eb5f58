"""The picture of a training's losses, and when there is one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import InterruptedStage, StageError
from tunesmith_stages.train.parent import _drawn_if_it_fails

FAILURE = StageError(ExitCode.GATE_FAILED, "the loss is nan", reason="LossNotFinite")
EVENTS = [{"step": 1, "loss": 3.0}, {"step": 1, "evalLoss": 3.5}, {"step": 2, "loss": math.nan}]


def write(logs: Path, text: str) -> None:
    (logs / "metrics.jsonl").write_text(text)


def test_a_training_that_fails_shows_its_losses(tmp_path: Path) -> None:
    """Where it went wrong is to be seen; a loss that is no number is no obstacle."""
    write(tmp_path, "".join(json.dumps(event) + "\n" for event in EVENTS))
    with pytest.raises(StageError) as caught, _drawn_if_it_fails(tmp_path):
        raise FAILURE
    assert caught.value is FAILURE
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", [None, "", '{"step": 1}\n', "nonsense\n", '{"step": 1, "loss": "x"}\n{"loss": 2}\n'])
def test_what_cannot_be_drawn_hides_no_failure(tmp_path: Path, text: str | None) -> None:
    """Without a record, or with one that is damaged, the failure is what it is."""
    if text is not None:
        write(tmp_path, text)
    with pytest.raises(StageError) as caught, _drawn_if_it_fails(tmp_path):
        raise FAILURE
    assert caught.value is FAILURE
    assert not (tmp_path / "loss.png").exists()


def test_who_is_asked_to_end_draws_nothing(tmp_path: Path) -> None:
    """There is little time, and the training goes on."""
    write(tmp_path, '{"step": 1, "loss": 3.0}\n')
    with pytest.raises(InterruptedStage), _drawn_if_it_fails(tmp_path):
        raise InterruptedStage
    assert not (tmp_path / "loss.png").exists()
