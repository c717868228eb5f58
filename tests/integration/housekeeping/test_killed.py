"""A clean-up that is killed at each change that it makes to the disk, one after the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.builders import job as built
from support.made_volume import aged, applied, carried_out_on, observed, planned_on
from tunesmith.core.needs import needs_of
from tunesmith.housekeeping.collecting import Collector
from tunesmith_stages.contract import StageName
from tunesmith_stages.volume import Volume

DAY = 86_400.0


def clean_up(volume: Volume, item: dict[str, Any]) -> None:
    """Clean up with one FineTuneJob."""
    collector = Collector(volume, lambda: [needs_of(item)], grace=DAY, keep_logs=2)
    for _ in collector.remove(collector.verdicts()):
        pass


class Killed(BaseException):
    """The process ends here."""


def test_killed_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any change to the disk, it leaves every result whole or absent, and the next one ends the work."""
    template = Volume(tmp_path / "template")
    other = {"metadata.name": "other", "spec.training.learningRate": "1e-3", "spec.ollama.model": "other:v1"}
    carried_out_on(template, built())
    carried_out_on(template, built(other))
    item = observed(applied(other, name="other"), template)
    results = planned_on(template, built(other))[1].values()
    wanted = [result for result in results if result.stage is not StageName.CONVERT]
    aged(template)
    changes: Sequence[tuple[Any, str]] = (
        (os, "unlink"),
        (os, "rmdir"),
        (os, "rename"),
        (Path, "rename"),
        (Path, "unlink"),
    )
    left = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*arguments, **more)

        return change

    for module, name in changes:
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    moment, ended = 0, False
    while not ended:
        left = 1 << 30
        root = tmp_path / "killed"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template.root, root)
        volume = aged(Volume(root))
        left = moment
        try:
            clean_up(volume, item)
            ended = True
        except Killed:
            pass
        left = 1 << 30
        lost = [result for result in wanted if volume.result(result.stage, result.key) is None]
        assert lost == [], moment
        aged(volume)
        clean_up(volume, item)
        left_behind = [path for path in root.rglob("*") if ".removed-" in path.name]
        assert [*left_behind, *root.glob("runs/support-bot")] == [], moment
        moment += 1
    assert moment > 20
