"""By what `benchmarks/train` compares trainings: speeds and losses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks are scripts, not a package that is installed

from benchmarks.training.figures import speed, widest_gap
from benchmarks.training.watch import Run, Step, watch


def run(*steps: tuple[float, float, float]) -> Run:
    """Return a run of steps, each of loss, seconds, and those of processor time."""
    return Run([Step(*step) for step in steps], seconds=99.0, busy=99.0)


def test_warmup_and_start_count_for_no_speed() -> None:
    """The clock runs from the end of the warm-up to the end of the last step, and only tokens of that time count."""
    found = speed([run((5, 30.0, 20.0), (4, 32.0, 23.0), (3, 34.0, 29.0))], [1000, 100, 60], warmup=1)
    assert (found.rate, found.thrift) == pytest.approx((160 / 4, 160 / 9))


def test_runs_of_a_program_count_together() -> None:
    """Of several runs it is all their tokens over all their time, so that a slow one is not hidden."""
    fast, slow = run((5, 1.0, 1.0), (4, 2.0, 2.0)), run((5, 1.0, 1.0), (4, 4.0, 2.0))
    assert speed([fast, slow], [7, 80], warmup=1).rate == pytest.approx(160 / 4)


def test_gap_names_step_and_program() -> None:
    """The widest gap to the first program's losses is found in any program, and in no step after those compared."""
    runs = {
        "ours": run((5.0, 1, 1), (4.0, 2, 2), (3.0, 3, 3)),
        "a": run((5.0, 1, 1), (4.1, 2, 2), (9.0, 3, 3)),
        "b": run((5.0, 1, 1), (3.8, 2, 2), (3.0, 3, 3)),
    }
    gap, step, name = widest_gap(runs, 2)
    assert (step, name) == (2, "b")
    assert gap == pytest.approx(0.2)


def test_steps_are_seen_as_they_are_logged(tmp_path: Path) -> None:
    """A step ends when its line is whole in the log; lines without a loss are none."""
    log = tmp_path / "log.jsonl"
    script = tmp_path / "trains.sh"
    script.write_text(
        f"""printf '{{"loss": 2.5}}\\n{{"eval": 1}}\\n{{"lo' >> {log}; sleep 0.2
printf 'ss": 1.5}}\\n' >> {log}; sleep 0.1"""
    )
    done = watch(["sh", script], log, {}, tmp_path / "output")
    assert [step.loss for step in done.steps] == [2.5, 1.5]
    assert 0.1 < done.steps[1].seconds - done.steps[0].seconds < done.seconds
