"""The record of a training: a line per event in ``metrics.jsonl``, and the same to whoever watches."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesmith_stages.train.exchange import Exchange

_NAMES = {"loss": "loss", "grad_norm": "gradNorm", "learning_rate": "learningRate", "eval_loss": "evalLoss"}
"""transformers' names of what is recorded, and ours."""


class Recorder:
    """Writes events to ``metrics.jsonl`` and tells the parent (rank 0 only).

    A line holds ``step``, ``epoch`` and, after training steps, ``loss``, ``gradNorm``, ``learningRate``, ``tokens``
    (taken in since the beginning) and ``tokensPerSecond``; after an evaluation ``evalLoss``. Losses are means over
    all labelled tokens, of all steps since the last line and of all ranks.
    """

    def __init__(
        self, file: Path, exchange: Exchange, tokens_until: Callable[[int], int], clock: Callable[[], float] = time.time
    ) -> None:
        self.file = file
        self._exchange = exchange
        self._tokens_until = tokens_until
        self._clock = clock
        self._latest: dict[str, float] = {}
        self._first = self._last = (0, clock())

    def begin(self, step: int, earlier: Path | None) -> None:
        """Start measuring at step `step`; `earlier` is the record up to there, when a training goes on."""
        self.file.write_bytes(b"")  # there from the beginning: a checkpoint takes a copy, perhaps before the first line
        if earlier is not None:
            shutil.copyfile(earlier, self.file)
            for event in read_metrics(self.file):
                self._latest.update(_figures(event))
        self._first = self._last = (step, self._clock())

    def record(self, step: int, total: int, epoch: float, logs: Mapping[str, float]) -> None:
        """Record what transformers logs; what is neither a training nor an evaluation event is passed over."""
        event = {ours: float(logs[theirs]) for theirs, ours in _NAMES.items() if theirs in logs}
        if not event:
            return
        if "loss" in event:
            event |= self._pace(step)
        line = {"step": step, "epoch": round(epoch, 6), **event}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._latest.update(_figures(event))
        eta = {"etaSeconds": self._eta(step, total)}
        self._exchange.tell({"done": step, "total": total, "metrics": _finite({**self._latest, **eta})})

    def _pace(self, step: int) -> dict[str, float]:
        now = self._clock()
        before, then = self._last
        self._last = (step, now)
        tokens = self._tokens_until(step)
        rate = (tokens - self._tokens_until(before)) / max(now - then, 1e-9)
        return {"tokens": tokens, "tokensPerSecond": round(rate, 1)}

    def _eta(self, step: int, total: int) -> float:
        """Return the seconds left at the pace of this attempt, evaluations and checkpoints included."""
        first, began = self._first
        return round((total - step) * (self._clock() - began) / max(step - first, 1), 1)

    @property
    def latest(self) -> Mapping[str, float]:
        """The last value of every figure."""
        return self._latest


def _figures(event: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in event.items() if name not in ("step", "epoch", "tokens")}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what JSON has no number for."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the events of a ``metrics.jsonl``; a last line that was cut off is left out."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
