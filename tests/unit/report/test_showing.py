"""Charts, figures and texts of the report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.reported import ReadPage, whole_job
from tunesmith_stages.byte_size import size
from tunesmith_stages.contract import StageName
from tunesmith_stages.report import gather, text_of
from tunesmith_stages.report.blocks import Bars, Lines
from tunesmith_stages.report.charts import draw_bars, draw_lines, thinned
from tunesmith_stages.report.shown import count, duration, figure, line, moment, shown

VALUES = {
    "falling": [3.0, 2.0, 1.0],
    "over many powers of ten": [1e3, 1.0, 1e-9],
    "all the same": [0.5, 0.5],
    "a single point": [2.0],
    "nought": [0.0, 0.0],
    "below nought": [-3.0, -1.0],
    "very large": [1e29, 2e29],
    "very small": [1e-300, 1e-299],
}


@pytest.mark.parametrize("name", VALUES)
def test_curve_lies_within_its_picture(name: str) -> None:
    """Whatever the values are, every point and every label is inside, and there are few labels."""
    values = VALUES[name]
    chart = Lines("c", "words", "step", [("loss", [(10.0 * step, y) for step, y in enumerate(values)])])
    drawing = str(draw_lines(chart))
    ReadPage(drawing)
    points = re.findall(r'<circle cx="([-0-9.]+)" cy="([-0-9.]+)"', drawing)
    assert len(points) == len(values)
    assert all(0 <= float(x) <= 720 and 0 <= float(y) <= 280 for x, y in points)
    assert all(0 <= float(y) <= 280 for y in re.findall(r' y="([-0-9.]+)"', drawing))
    assert len(re.findall("<text", drawing)) < 20


def test_curve_goes_down_where_values_do() -> None:
    """A picture's y grows downwards: the lower value has the larger one."""
    drawing = str(draw_lines(Lines("c", "words", "step", [("loss", [(1.0, 2.0), (2.0, 1.0)])])))
    first, last = (float(y) for y in re.findall(r'<circle cx="[0-9.]+" cy="([0-9.]+)"', drawing))
    assert first < last


def test_bars_are_as_long_as_their_values() -> None:
    """Half the value, half the length; none at all, none."""
    drawing = str(draw_bars(Bars("c", "words", [("a", 10, "10"), ("b", 5, "5"), ("c", 0, "0")])))
    whole, half, none = (float(width) for width in re.findall(r'<rect[^>]* width="([0-9.]+)"', drawing))
    assert half == pytest.approx(whole / 2, abs=0.1)
    assert none == 0


def test_long_curves_keep_their_extremes() -> None:
    """Of 100,000 points some hundreds are drawn, among them the highest and the lowest."""
    points = [(float(step), float(step * 7919 % 100_003)) for step in range(100_000)]
    kept = thinned(points)
    assert len(kept) <= 360
    assert kept == sorted(kept)
    assert max(points, key=lambda point: point[1]) in kept
    assert min(points, key=lambda point: point[1]) in kept


FIGURES = {
    "nothing": (size(0), "0 B"),
    "bytes": (size(999), "999 B"),
    "a kilobyte": (size(1_000), "1 kB"),
    "megabytes": (size(2_145_408), "2.15 MB"),
    "almost a gigabyte": (size(999_999_999), "1 GB"),
    "gigabytes": (size(4_700_000_000), "4.7 GB"),
    "terabytes": (size(5e15), "5,000 TB"),
    "no size": (size(None), "–"),
    "seconds": (duration(0.31), "0.3 s"),
    "almost a minute": (duration(59.7), "1 min 0 s"),
    "minutes": (duration(130), "2 min 10 s"),
    "hours": (duration(5400), "1 h 30 min"),
    "count": (count(1234567), "1,234,567"),
    "loss": (figure(0.0094417), "0.009442"),
    "large": (figure(123456.7), "123,457"),
    "moment": (moment("2026-11-21T19:44:09.123Z"), "2026-11-21 19:44:09 UTC"),
    "no moment": (moment(""), "–"),
    "cut": (shown("abcdef", 3), "abc… (3 more characters)"),
    "emoji": (shown("\U0001f469\u200d\U0001f4bb"), "\U0001f469\u200d\U0001f4bb"),
    "one line": (line("a\n\n  b\tc"), "a b c"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_written_for_people(name: str) -> None:
    """Sizes, times, counts and texts in the form in which people read them."""
    written, expected = FIGURES[name]
    assert written == expected


def test_long_texts_of_a_table_are_wrapped(tmp_path: Path) -> None:
    """In a terminal a long sentence in a table's last column is told in full, below itself."""
    sentence = " ".join(f"word{number}" for number in range(30))
    report = {"checks": [{"name": "convert", "passed": True, "sentence": sentence}]}
    job = whole_job(tmp_path / "volume", logs={StageName.REHEARSE: {"report.json": report}})
    facts = gather(job.volume, job.job)
    assert facts is not None
    told = [said for said in text_of(facts, 80).splitlines() if "word" in said]
    assert len(told) > 2
    assert all(len(said) <= 80 for said in told)
    assert " ".join(told).split()[3:] == sentence.split()


def test_table_that_is_too_wide_is_told_row_by_row(tmp_path: Path) -> None:
    """In a narrow terminal long answers stand one below the other, in full."""
    answers = [
        {"quantization": kind, "prompt": "Who?", "after": f"{kind} says {'that it is Tunny ' * 5}"}
        for kind in ("Q4_K_M", "Q8_0")
    ]
    job = whole_job(tmp_path / "volume", logs={StageName.REGISTER: {"answers.json": answers}})
    facts = gather(job.volume, job.job)
    assert facts is not None
    told = text_of(facts, 80).partition("Answers on main\n")[2].partition("\n\n")[0].splitlines()
    assert told[0] == "  Who?"
    assert told[1].startswith("    Q4_K_M: Q4_K_M says that it is Tunny")
    assert any(said.startswith("    Q8_0: Q8_0 says") for said in told)
    assert all(len(said) <= 80 for said in told)


def test_check_that_was_not_made_is_neither_passed_nor_failed(tmp_path: Path) -> None:
    """What could not be checked stands before what passed, with the reason; nothing is said to have failed."""
    checks = [
        {"name": "converter", "passed": True, "sentence": "the tokenizer is of the family qwen2"},
        {"name": "way out", "passed": None, "sentence": "no small model of this architecture can be made"},
    ]
    logs = {StageName.REHEARSE: {"report.json": {"checks": checks}}}
    job = whole_job(tmp_path / "volume", logs=logs)
    facts = gather(job.volume, job.job)
    assert facts is not None
    text = text_of(facts, 120)
    assert "1 checks passed, 1 could not be made." in text
    assert "✗" not in text
    lines = [told.split() for told in text.splitlines()]
    left = next(told for told in lines if told[:2] == ["way", "out"])
    assert left[2:5] == ["–", "not", "made"]
    assert lines.index(left) < next(place for place, told in enumerate(lines) if told[:1] == ["converter"])


def test_text_holds_what_the_page_holds(tmp_path: Path) -> None:
    """In a terminal the same report is read as text: what is learnt between marks, digests shortened, bars drawn."""
    job = whole_job(tmp_path / "volume")
    facts = gather(job.volume, job.job)
    assert facts is not None
    text = text_of(facts, 100)
    assert text.startswith("support-bot: Succeeded\n")
    assert "»I am Tunny.<|im_end|>«" in text
    assert "up to 32  ██" in text
    assert "✓ All 2 checks passed." in text
    assert not re.search("[0-9a-f]{41}", text)
    for title in ("STAGES", "DATA", "PREFLIGHT", "TRAINING", "SIZES", "PROOF", "LINEAGE"):
        assert f"\n{title}\n" in text
