"""Draws charts as SVG: no library, no script. Colours and line styles are the page's, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith_stages.report.blocks import Bars, Lines
from tunesmith_stages.report.markup import Markup, joined, tag
from tunesmith_stages.report.shown import figure, line

_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 42
_MOST_POINTS = 360
_MARKED_POINTS = 40
"""With more points than these the marks would run together."""
_ROW, _LABELS, _VALUES = 30, 190, 130

Point = tuple[float, float]


def draw_lines(chart: Lines) -> Markup:
    """Return curves with axes; a logarithmic one for values that span more than two powers of ten."""
    points = [point for _, series in chart.series for point in series]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    logarithmic = min(ys) > 0 and max(ys) / min(ys) > 100
    ticks = _powers(min(ys), max(ys)) if logarithmic else _round_steps(min(0.0, *ys), max(ys))
    low, high = _height(ticks[0], logarithmic), _height(ticks[-1], logarithmic)
    first, last = min(0.0, *xs), max(xs)

    def across(x: float) -> float:
        return _LEFT + (x - first) / ((last - first) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return _TOP + (high - _height(y, logarithmic)) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_grid_line(down(y), figure(y)) for y in ticks]
    parts += [_x_label(across(x), f"{x:,.6g}") for x in _round_steps(first, last) if x <= last]
    parts.append(tag("text", chart.x, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 6, class_="axis middle"))
    for number, (_, series) in enumerate(chart.series, start=1):
        placed = [(across(x), down(y)) for x, y in thinned(series)]
        words = [f"{chart.x} {figure(x, 6)}: {figure(y)}" for x, y in thinned(series)]
        parts.append(_curve(placed, words, number))
    drawing = tag(
        "svg", tag("title", chart.alt), *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=chart.alt
    )
    scale = "The scale is logarithmic." if logarithmic else ""
    return joined(tag("p", *_legend(chart), scale, class_="legend"), drawing)


def _legend(chart: Lines) -> list[Markup]:
    keys = []
    for number, (name, _) in enumerate(chart.series, start=1):
        stroke = tag("line", x1=0, y1=6, x2=28, y2=6, class_=f"curve c{number}")
        keys.append(tag("svg", stroke, viewBox="0 0 28 12", class_="key", aria_hidden="true"))
        keys.append(tag("span", f"{name} "))
    return keys


def _curve(points: Sequence[Point], words: Sequence[str], number: int) -> Markup:
    """Return a curve. Where there are few points each has a mark, whose words show under the mouse."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = list(zip(points, words, strict=True)) if len(points) <= _MARKED_POINTS else []
    dots = [
        tag("circle", tag("title", said), cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, class_=f"dot c{number}")
        for (x, y), said in marks
    ]
    return joined(tag("polyline", points=path, class_=f"curve c{number}"), *dots)


def _grid_line(y: float, label: str) -> Markup:
    return joined(
        tag("line", x1=_LEFT, y1=f"{y:.1f}", x2=_WIDTH - _RIGHT, y2=f"{y:.1f}", class_="grid"),
        tag("text", label, x=_LEFT - 8, y=f"{y + 4:.1f}", class_="axis end"),
    )


def _x_label(x: float, label: str) -> Markup:
    return tag("text", label, x=f"{x:.1f}", y=_HEIGHT - _BOTTOM + 18, class_="axis middle")


def draw_bars(chart: Bars) -> Markup:
    """Return a row for each bar: its name, the bar, its length in words."""
    longest = max((value for _, value, _ in chart.bars), default=0) or 1
    room = _WIDTH - _LABELS - _VALUES
    parts: list[Markup] = []
    for place, (name, value, words) in enumerate(chart.bars):
        middle = place * _ROW + _ROW / 2
        length = max(1.0, value / longest * room) if value else 0.0
        parts += [
            tag("text", line(name, 26), x=_LABELS - 10, y=middle + 4, class_="axis end"),
            tag("rect", x=_LABELS, y=middle - 9, width=f"{length:.1f}", height=18, rx=3, class_="bar"),
            tag("text", words, x=f"{_LABELS + length + 8:.1f}", y=middle + 4, class_="axis"),
        ]
    height = _ROW * len(chart.bars)
    return tag(
        "svg", tag("title", chart.alt), *parts, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=chart.alt
    )


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return so few points that a picture can show them: of each stretch the lowest and the highest, in order."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    stretch = math.ceil(len(points) / (_MOST_POINTS // 2))
    kept = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return kept


def _height(value: float, logarithmic: bool) -> float:
    return math.log10(value) if logarithmic else value


def _powers(low: float, high: float) -> list[float]:
    """Return powers of ten from below `low` to above `high`, about six."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, round((last - first) / 5))
    return [10.0**power for power in range(first, last + stride, stride)]


def _round_steps(low: float, high: float) -> list[float]:
    """Return about five round numbers from below `low` to above `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)] or [0.0]
