"""What people ask for by annotations, and what becomes of it where a GitOps tool takes annotations away again."""

from __future__ import annotations

from typing import Any

from controller.conftest import Life
from support.fake_cluster import failure
from tunesmith_stages.contract import ExitCode


def annotate(life: Life, **values: str) -> None:
    """Have the job have these annotations of ours and no other."""
    notes = {f"tunesmith.dev/{name}": value for name, value in values.items()}
    life.cluster.edit("bot", lambda item: item["metadata"].update(annotations=notes))


def jobs(life: Life) -> list[str]:
    return [str(job["metadata"]["labels"]["tunesmith.dev/stage"]) for job in life.cluster.jobs()]


def status(life: Life) -> dict[str, Any]:
    return dict(life.cluster.status("bot"))


def test_a_retry_that_is_taken_away_tries_nothing(life: Life) -> None:
    """Flux removes what `kubectl annotate` added: that is no other try, and the same value later is none either."""
    life.programs.failures["train"] = [failure(ExitCode.OUT_OF_MEMORY, "OutOfMemory")] * 4
    life.apply()
    life.run()
    annotate(life, retry="1")
    life.run()
    assert jobs(life).count("train") == 2
    annotate(life)
    life.run()
    annotate(life, retry="1")
    life.run()
    assert jobs(life).count("train") == 2
    annotate(life, retry="2")
    life.run()
    assert jobs(life).count("train") == 3


def test_a_refresh_that_is_taken_away_looks_at_nothing(life: Life) -> None:
    """A job that succeeded stays as it is, its status to the letter, when the annotation goes."""
    life.apply()
    life.run()
    annotate(life, refresh="1")
    life.run()
    assert jobs(life).count("fetch") == 2
    before = status(life)
    annotate(life)
    life.run()
    assert jobs(life).count("fetch") == 2
    assert status(life) == before
    assert before["refresh"] == "1"
