"""The record of a training: a line per event in ``metrics.jsonl``, and the same to whoever watches."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith_stages.train.exchange import Exchange

REWARDS = {
    f"{theirs}reward_{figure}": f"{ours}{figure.capitalize()}"
    for theirs, ours in (("", "reward"), ("eval_", "evalReward"))
    for figure in ("margin", "accuracy", "desirable", "undesirable")
}
"""What :mod:`.preference_losses` calls its figures, on training rows and on those held out, and what they are called
here."""

_NAMES = {
    "loss": "loss",
    "grad_norm": "gradNorm",
    "learning_rate": "learningRate",
    "eval_loss": "evalLoss",
    "gpu_memory": "gpuMemory",
    "peak_gpu_memory": "peakGpuMemory",
    **REWARDS,
}
"""transformers' names of what is recorded, and ours."""

_RECENT = 50
"""Training events by which the time left is reckoned: the slow first steps are soon forgotten, evaluations are not."""

_TELL_SECONDS = 5.0
"""How long nothing is told between events at least."""


class Recorder:
    """Writes events to ``metrics.jsonl`` and tells the parent (rank 0 only).

    A line holds ``step``, ``time`` (Unix, seconds), ``epoch`` and, after training steps, ``loss``, ``gradNorm``,
    ``learningRate``, ``tokens`` (taken in since the beginning) and ``tokensPerSecond``; after an evaluation
    ``evalLoss``; of GPUs ``gpuMemory`` and ``peakGpuMemory``, in bytes on the fullest one. Losses are means over all
    labelled tokens, of all steps since the last line and of all ranks. Methods that learn from preferences have
    their own, which are means over rows, and rewards beside them (:data:`REWARDS`).
    """

    def __init__(
        self, file: Path, exchange: Exchange, tokens_until: Callable[[int], int], clock: Callable[[], float] = time.time
    ) -> None:
        self.file = file
        self._exchange = exchange
        self._tokens_until = tokens_until
        self._clock = clock
        self._latest: dict[str, float] = {}
        self._marks: deque[tuple[int, float]] = deque([(0, clock())], maxlen=_RECENT)
        self._told = 0.0

    def begin(self, step: int, earlier: Path | None) -> None:
        """Start measuring at step `step`; `earlier` is the record up to there, when a training goes on."""
        self.file.write_bytes(b"")  # there from the beginning: a checkpoint takes a copy, perhaps before the first line
        if earlier is not None:
            shutil.copyfile(earlier, self.file)
            for event in read_metrics(self.file):
                self._latest.update(_figures(event))
        self.measure_from(step)

    def measure_from(self, step: int) -> None:
        """Start measuring anew after step `step`: what came before tells nothing of the steps to come."""
        self._marks.clear()
        self._marks.append((step, self._clock()))

    def record(self, step: int, total: int, epoch: float, logs: Mapping[str, float]) -> None:
        """Record what transformers logs; what is neither a training nor an evaluation event is passed over."""
        event = {ours: float(logs[theirs]) for theirs, ours in _NAMES.items() if theirs in logs}
        if not event:
            return
        if "loss" in event:
            event |= self._pace(step)
        line = {"step": step, "time": round(self._clock(), 3), "epoch": round(epoch, 6), **event}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._latest.update(_figures(line))
        self._tell(step, total)

    def saved(self, step: int, total: int, seconds: float) -> None:
        """Tell how long an end in order takes, a step and `seconds` of saving; it is no event of the record."""
        self._latest["checkpointSeconds"] = round(self._step_seconds(step) + seconds, 3)
        self._tell(step, total)

    def reached(self, step: int, total: int, doing: str = "") -> None:
        """Tell how far the training is, with the figures as they were last, but no more often than every few seconds.

        `doing` says what is done besides steps.
        """
        if self._clock() - self._told >= _TELL_SECONDS:
            with suppress(OSError):  # a volume that is full or gone is told by what needs it
                self._tell(step, total, doing)

    def _tell(self, step: int, total: int, doing: str = "") -> None:
        self._told = self._clock()
        figures = dict(self._latest)
        if step > self._marks[0][0]:  # before the first step nobody knows how long one takes
            figures["etaSeconds"] = self._eta(step, total)
        note = {"note": doing} if doing else {}
        self._exchange.tell({"done": step, "total": total, "metrics": _finite(figures), **note})

    def _pace(self, step: int) -> dict[str, float]:
        now = self._clock()
        before, then = self._marks[-1]
        self._marks.append((step, now))
        tokens = self._tokens_until(step)
        rate = (tokens - self._tokens_until(before)) / max(now - then, 1e-9)
        return {"tokens": tokens, "tokensPerSecond": round(rate, 1)}

    def _eta(self, step: int, total: int) -> float:
        """Return the seconds left at the pace of the recent steps, evaluations and checkpoints included."""
        return round((total - step) * self._step_seconds(step), 1)

    def _step_seconds(self, step: int) -> float:
        first, began = self._marks[0]
        return (self._clock() - began) / max(step - first, 1)

    @property
    def latest(self) -> Mapping[str, float]:
        """The last value of every figure."""
        return self._latest


def _figures(event: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in event.items() if name not in ("step", "time", "tokens")}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what JSON has no number for."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the events of a ``metrics.jsonl``; a last line that was cut off is left out."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
