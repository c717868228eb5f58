"""The section on the training, by its record and its result."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith_stages.byte_size import size
from tunesmith_stages.contract import StageName
from tunesmith_stages.report.blocks import NOTE, Block, Folded, Lines, Says, Section, Table
from tunesmith_stages.report.facts import Facts, Unit
from tunesmith_stages.report.reading import listed, mapping, number, read_json_lines, text
from tunesmith_stages.report.shown import count, duration, figure, line

_LARGEST = 1e30
"""What is more than this is no loss that a curve could show."""
_REWARDS = {
    "rewardMargin": "margin between the rewards of chosen and rejected answers",
    "rewardDesirable": "reward of desirable answers",
    "rewardUndesirable": "reward of undesirable answers",
}
"""What methods that learn from preferences record besides the loss."""
Series = Sequence[tuple[float, float]]


def training(facts: Facts) -> Section:
    """Say how the training went: curves, figures, settings."""
    unit = facts.one(StageName.TRAIN)
    if unit is None:
        source = facts.units.get((StageName.FETCH, "base"))
        is_gguf = source is not None and "gguf" in mapping(source.config.params.get("source"))
        words = "Nothing is trained: the base is a GGUF file." if is_gguf else "The training has not begun."
        return Section("training", "Training", (Says(words, NOTE),))
    events = list(read_json_lines(facts.volume, unit.folder / "logs" / "metrics.jsonl"))
    blocks = [*_open(unit, events), *_curves(events), *_figures(unit, events), *_settings(unit)]
    return Section("training", "Training", tuple(blocks))


def _open(unit: Unit, events: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    if unit.result is None:
        last = number(events[-1].get("step")) if events else None
        upto = f"The record ends at step {count(last)}." if last is not None else "It has no record of steps."
        yield Says(f"The training has no result. {upto}", NOTE)


def _series(events: Sequence[Mapping[str, Any]], name: str) -> Series:
    pairs = ((number(event.get("step")), number(event.get(name))) for event in events)
    return [(x, y) for x, y in pairs if x is not None and y is not None and abs(x) < _LARGEST and abs(y) < _LARGEST]


def _curves(events: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    loss, held = _series(events, "loss"), _series(events, "evalLoss")
    series = [(name, points) for name, points in (("training loss", loss), ("loss on held-out rows", held)) if points]
    if not series:
        return
    first, points = series[0]
    alt = f"{first.capitalize()} by step: from {figure(points[0][1])} to {figure(points[-1][1])}."
    if loss and held:
        alt += f" On held-out rows it ends at {figure(held[-1][1])}; the lowest is {figure(min(y for _, y in held))}."
    rewards = [(words, points) for name, words in _REWARDS.items() if (points := _series(events, name))]
    yield Lines("Loss by step" if rewards else "Loss by step, in nats per token", alt, "step", series)
    if rewards:
        ends = "; ".join(f"the {words} ends at {figure(points[-1][1])}" for words, points in rewards)
        yield Lines("Rewards by step", f"{ends[:1].upper()}{ends[1:]}.", "step", rewards)


def _figures(unit: Unit, events: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    numbers, rows = unit.figures, []
    for name, words in (("loss", "training loss"), ("evalLoss", "loss on held-out rows")):
        points = _series(events, name)
        last = numbers.get(name, points[-1][1] if points else None)
        if last is not None:
            rows.append((f"{words} at the end", figure(last)))
        if points:
            step, lowest = min(points, key=lambda point: point[1])
            rows.append((f"lowest {words}", f"{figure(lowest)} at step {count(step)}"))
    rows += [(f"{words} at the end", figure(numbers[name])) for name, words in _REWARDS.items() if name in numbers]
    if "rewardAccuracy" in numbers:
        rows.append(("share of pairs with a margin above 0 at the end", figure(numbers["rewardAccuracy"])))
    rows += [(words, count(number(numbers[name]))) for name, words in (("steps", "steps"),) if name in numbers]
    rows += [("epochs", figure(numbers["epochs"]))] if "epochs" in numbers else []
    taken = _series(events, "tokens")
    rows += [("tokens taken in", count(taken[-1][1]))] if taken else []
    rates = [rate for _, rate in _series(events, "tokensPerSecond")]
    rate = numbers.get("tokensPerSecond", statistics.median(rates) if rates else None)
    rows += [("tokens per second", count(rate))] if rate is not None else []
    if (peak := number(numbers.get("peakGpuMemory"))) is not None:
        rows.append(("most memory taken on a GPU", size(peak)))
    outputs = unit.result.outputs if unit.result else {}
    if kernels := [line(name, 40) for name in listed(outputs.get("kernels")) if isinstance(name, str)]:
        rows.append(("computed with", ", ".join(kernels[:8])))
    for name, words in (("trainSeconds", "time of the steps"), ("seconds", "time in all")):
        rows += [(words, duration(numbers[name]))] if name in numbers else []
    if rows:
        yield Table("How it went", ("figure", "value"), rows, frozenset({1}))


def _settings(unit: Unit) -> Iterator[Block]:
    if not unit.config.params:
        return
    keyed = [(line(name, 80), _value(value)) for name, value in sorted(unit.config.params.items())]
    runtime = [(line(name, 80), _value(value)) for name, value in sorted(unit.runtime.items())]
    tables = [Table("Settings that decide what is learnt", ("setting", "value"), keyed[:60])]
    tables += [Table("How it was carried out", ("setting", "value"), runtime[:60])] if runtime else []
    yield Folded("Settings", tables)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return line(", ".join(f"{name} {_value(item)}" for name, item in value.items()), 300) or "–"
    if isinstance(value, list):
        return line(", ".join(_value(item) for item in value), 300) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return line(text(value), 300) or "–"
