"""Tells how far a training is after each step, also after those that nothing is recorded of."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from tunesmith_stages.train.metrics import Recorder


class TellStanding(TrainerCallback):
    """Has the record's keeper tell it (rank 0), and measure from the first step on: what comes before is no step."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._begun = False

    def on_step_begin(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Measure from here, if it is the first step."""
        if not self._begun:
            self._begun = True
            self._recorder.measure_from(state.global_step)

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Tell, unless the step is recorded, which tells more."""
        if state.is_world_process_zero and not control.should_log:
            self._recorder.reached(state.global_step, state.max_steps)
