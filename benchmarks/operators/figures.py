"""The table: each figure of ours beside the peer's, and how both grow with the number of objects. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.operators.measuring import RATE, Run


@dataclass(frozen=True)
class Measured:
    """What was measured of one system with so many objects."""

    count: int
    paced: Run
    burst: Run


@dataclass(frozen=True)
class Figure:
    """A line of the table; less is better.

    Attributes:
        name: for people.
        unit: of the value.
        of: returns the value.
        of_all: whether it is of all objects together, so that it grows with their number.
        digits: after the point.
    """

    name: str
    unit: str
    of: Callable[[Measured], float]
    of_all: bool = False
    digits: int = 2


def _each(cpu: Callable[[Measured], float]) -> Callable[[Measured], float]:
    """Return milliseconds for each object."""
    return lambda found: 1000 * cpu(found) / found.count


BURST = Figure("burst: until each has its first Job", "s", lambda found: found.burst.seconds, of_all=True, digits=1)
_PACE = f"{RATE}/s"
FIGURES: Sequence[Figure] = (
    Figure(f"{_PACE}: sent to Job seen, p50", "s", lambda found: found.paced.sent.p50, digits=3),
    Figure(f"{_PACE}: sent to Job seen, p99", "s", lambda found: found.paced.sent.p99, digits=3),
    Figure(f"{_PACE}: answered to Job seen, p50", "s", lambda found: found.paced.answered.p50, digits=3),
    Figure(f"{_PACE}: answered to Job seen, p99", "s", lambda found: found.paced.answered.p99, digits=3),
    Figure(f"{_PACE}: CPU for each", "ms", _each(lambda found: found.paced.cpu), digits=1),
    BURST,
    Figure("burst: answered to Job seen, p50", "s", lambda found: found.burst.answered.p50, of_all=True),
    Figure("burst: answered to Job seen, p99", "s", lambda found: found.burst.answered.p99, of_all=True),
    Figure("burst: until each has its status", "s", lambda found: found.burst.told_seconds, of_all=True, digits=1),
    Figure("burst: CPU for each, until its Job", "ms", _each(lambda found: found.burst.cpu), digits=1),
    Figure("burst: CPU for each, until its status", "ms", _each(lambda found: found.burst.told_cpu), digits=1),
    Figure("burst: CPU of the cluster for each", "ms", _each(lambda found: found.burst.cluster_cpu), digits=1),
    Figure("memory with all of them", "MB", lambda found: found.burst.memory, of_all=True, digits=0),
    Figure("cores when nothing happens", "", lambda found: found.burst.idle, of_all=True, digits=3),
    Figure("works again after kill -9, median", "s", lambda found: statistics.median(found.burst.restarts)),
    Figure(
        "the same, Trainer without election",
        "s",
        lambda found: statistics.median(found.burst.unelected or found.burst.restarts),
    ),
)


def ahead(ours: Measured, peer: Measured, figure: Figure) -> float:
    """Return how many times the peer's value is ours."""
    return figure.of(peer) / max(figure.of(ours), 1e-9)


def behind(ours: Measured, peer: Measured) -> tuple[float, Figure]:
    """Return the figure in which ours is least ahead of the peer, and how far."""
    return min(((ahead(ours, peer, figure), figure) for figure in FIGURES), key=lambda item: item[0])


def table(name: str, ours: Mapping[int, Measured], peer: Mapping[int, Measured]) -> Iterator[str]:
    """Yield the lines of the table; both have the same numbers of objects, the smallest first."""
    counts = list(ours)
    yield (
        f"{'':<38}"
        + "".join(f" | {f'{count:,} objects':^32}" for count in counts)
        + _if_many(counts, f"{'growth':^17}")
    )
    heads = f" | {name:>11} {'Trainer':>12} {'times':>7}"
    yield f"{'':<38}" + heads * len(counts) + _if_many(counts, f"{name:>9} {'Trainer':>7}")
    for figure in FIGURES:
        line = f"{figure.name:<38}"
        for count in counts:
            own, other = figure.of(ours[count]), figure.of(peer[count])
            times = ahead(ours[count], peer[count], figure)
            line += f" | {_shown(own, figure):>11} {_shown(other, figure):>12} {times:>7.2f}"
        yield line + _if_many(counts, f"{_growth(ours, figure):>9.2f} {_growth(peer, figure):>7.2f}")


def _growth(found: Mapping[int, Measured], figure: Figure) -> float:
    """Return how a figure grows from the fewest objects to the most; of all objects together: for each of them."""
    fewest, most = min(found), max(found)
    share = most / fewest if figure.of_all else 1.0
    return figure.of(found[most]) / max(figure.of(found[fewest]), 1e-9) / share


def _shown(value: float, figure: Figure) -> str:
    return f"{value:,.{figure.digits}f} {figure.unit}".rstrip()


def _if_many(counts: Sequence[int], text: str) -> str:
    return f" | {text}" if len(counts) > 1 else ""
