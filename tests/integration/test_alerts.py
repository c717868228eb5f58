"""The chart's alerts, by promtool: Prometheus takes the rules, and each alert fires when it should and only then."""

from __future__ import annotations

from pathlib import Path

from support.generator import ROOT
from support.prometheus import promtool

RULES = ROOT / "charts" / "tunesmith" / "files" / "alerts.yaml"


def test_rules_are_sound() -> None:
    """Prometheus has nothing against the rules, nor a word of advice."""
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stdout


def test_each_fires_when_it_should() -> None:
    """What tests/integration/alerts.yaml says: each alert fires there, and is silent in the cases beside it."""
    done = promtool("test", "rules", Path(__file__).with_name("alerts.yaml"))
    assert done.returncode == 0, done.stdout
