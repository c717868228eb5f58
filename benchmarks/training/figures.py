"""What two trainings are compared by: their speed after the warm-up, and their losses step by step. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.training.watch import Run


@dataclass(frozen=True)
class Speed:
    """Tokens without padding over the steps that count."""

    tokens: float
    seconds: float
    busy: float
    """Seconds of processor time."""

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds

    @property
    def thrift(self) -> float:
        """Tokens per second of processor time."""
        return self.tokens / self.busy


def speed(runs: Sequence[Run], tokens: Sequence[int], warmup: int) -> Speed:
    """Return the speed of all `runs` of a program together; `tokens` are those of each step.

    The first `warmup` steps count for nothing: the clock starts when the last of them ends.
    """
    spans = [(run.steps[warmup - 1], run.steps[-1]) for run in runs]
    return Speed(
        float(sum(tokens[warmup:]) * len(runs)),
        sum(last.seconds - first.seconds for first, last in spans),
        sum(last.busy - first.busy for first, last in spans),
    )


def widest_gap(runs: Mapping[str, Run], steps: int) -> tuple[float, int, str]:
    """Return how far a run's loss is from the first run's at most, within so many steps, at which step, and whose."""
    (_, first), *others = runs.items()
    gaps = [
        (abs(step.loss - own.loss), number, name)
        for name, run in others
        for number, (own, step) in enumerate(zip(first.steps[:steps], run.steps[:steps], strict=True), 1)
    ]
    return max(gaps)
