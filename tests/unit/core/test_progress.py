"""Progress as the lines of a log tell it, whatever else stands there."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.api.status import Progress
from tunesmith.core.progress import read_log

STRANGE: dict[str, tuple[str, dict[str, Any], int]] = {
    "no metrics": ('"metrics": null', {}, 0),
    "metrics in a list": ('"metrics": [1]', {}, 0),
    "a loss that is none": ('"metrics": {"loss": NaN, "evalLoss": 2}', {"evalLoss": "2"}, 0),
    "GPU memory": (
        '"metrics": {"gpuMemory": 41300000000.0, "peakGpuMemory": 61e9, "gradNorm": 1.25}',
        {"gpuMemoryBytes": 41_300_000_000, "peakGpuMemoryBytes": 61_000_000_000, "gradNorm": "1.25"},
        0,
    ),
    "more memory than there is": ('"metrics": {"gpuMemory": 1e300}', {"gpuMemoryBytes": 2**53}, 0),
    "endless": ('"metrics": {"etaSeconds": Infinity, "checkpointSeconds": -Infinity}', {}, 0),
    "text for a number": ('"metrics": {"checkpointSeconds": "12", "etaSeconds": "soon"}', {}, 0),
    "true for a number": ('"metrics": {"checkpointSeconds": true}', {}, 0),
    "longer than a status holds": (
        '"metrics": {"etaSeconds": 1e300, "checkpointSeconds": 1e300}',
        {"etaSeconds": 2**31 - 1, "eta": "24855d3h"},
        2**31 - 1,
    ),
    "over already": ('"metrics": {"etaSeconds": -3}', {"etaSeconds": 0, "eta": "0s"}, 0),
    "an integer that no float holds": (f'"metrics": {{"loss": {"9" * 400}}}', {}, 0),
    "NaN done": ('"done": NaN, "total": 2', {}, 0),
    "more than a status counts": ('"done": 1, "total": 1e30', {}, 0),
    "less than nothing": ('"done": -1, "total": 2', {}, 0),
    "of nothing": ('"done": 0, "total": 0', {}, 0),
    "more than all": ('"done": 3, "total": 2', {"done": 3, "total": 2, "of": "", "text": "100 %"}, 0),
    "a count with a note": (
        '"note": "evaluating: 3 of 40 batches", "done": 1, "total": 4',
        {"done": 1, "total": 4, "of": "", "text": "evaluating: 3 of 40 batches"},
        0,
    ),
    "a note that is none": ('"note": {"a": 1}', {}, 0),
    "half a character": ('"note": "a\\ud800b"', {"text": "a?b"}, 0),
    "a unit that is none": ('"unit": 3', {}, 0),
    "the last of several": ('"metrics": {"checkpointSeconds": 41.2}', {}, 42),
}


@pytest.mark.parametrize("case", STRANGE)
def test_only_what_is_as_it_should_be_is_taken(case: str) -> None:
    """A line that is wrong somewhere costs what is wrong, and nothing else; the result always fits the status."""
    line, expected, saving = STRANGE[case]
    told = read_log(f'{{"stage": "train", {line}}}\n')
    assert told.progress == {"stage": "train", "unit": "", **expected}
    assert told.save_seconds == saving
    Progress.model_validate(told.progress)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "{}",
        "[1]",
        '{"stage": 3, "note": "a"}',
        '{"stage": null}',
        '{"a":' * 20_000,
        "Epoch 1/3",
        '{"n": ' + "9" * 5000,
    ],
    ids=lambda line: line[:12],
)
def test_what_is_not_progress_is_passed_over(line: str) -> None:
    """Lines of libraries, and lines that are cut off or too deep, tell nothing and harm nothing."""
    assert read_log(f'{{"stage": "train", "note": "before"}}\n{line}\n').progress["text"] == "before"
    assert read_log(line).progress == {}


def test_the_longest_saving_and_the_newest_figures_count() -> None:
    """Of several lines the newest figures are shown; the longest time of saving decides how long a Pod may end."""
    lines = [
        '{"stage": "train", "unit": "u", "done": 1, "total": 4, "of": "steps", "metrics": {"loss": 3.25}}',
        '{"stage": "train", "unit": "u", "metrics": {"checkpointSeconds": 12.5}}',
        '{"stage": "train", "unit": "u", "done": 2, "total": 4, "of": "steps", "metrics": {"checkpointSeconds": 3}}',
        '{"stage": "train", "unit": "u", "metrics": {"loss": 3}}',
    ]
    told = read_log("\n".join(lines))
    assert told.save_seconds == 13
    counted = {"done": 2, "total": 4, "of": "steps", "text": "50 %"}
    assert told.progress == {"stage": "train", "unit": "u", "loss": "3", **counted}
