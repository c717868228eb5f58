"""The chart's alerts agree with the metrics, the reasons and the pages. tests/integration has Prometheus test them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from support.generator import ROOT
from tunesmith_stages.reasons import GROUPS, REASONS
from tunesmith_stages.reasons.retry import NEVER

RULES = yaml.safe_load((ROOT / "charts/tunesmith/files/alerts.yaml").read_text(encoding="utf-8"))
TESTS = yaml.safe_load((ROOT / "tests/integration/alerts.yaml").read_text(encoding="utf-8"))["tests"]
ALERTS: dict[str, Any] = {
    rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule
}
OF_THE_OPERATOR = {"New", "Cached"}
"""Words that metrics have as a reason and no FineTuneJob does."""


def asked(alert: str) -> list[dict[str, Any]]:
    """Return the tests that ask whether an alert fires."""
    asks = [ask for test in TESTS for ask in test["promql_expr_test"]]
    return [ask for ask in asks if re.search(rf"alertname=~?\"[^\"]*\b{alert}\b", ask["expr"])]


def fires_with(alert: str) -> list[set[str]]:
    """Return the names of the labels with which it fires in tests, once for each time."""
    samples = [sample["labels"] for ask in asked(alert) for sample in ask["exp_samples"]]
    return [set(re.findall(r"(\w+)=", labels)) for labels in samples if f'"{alert}"' in labels]


@pytest.mark.parametrize("alert", ALERTS)
def test_each_is_tested_both_ways(alert: str) -> None:
    """There is a test in which it fires, and one in which it does not."""
    assert fires_with(alert)
    assert any(not ask["exp_samples"] for ask in asked(alert))


@pytest.mark.parametrize("alert", ALERTS)
def test_each_says_what_it_is(alert: str) -> None:
    """It has a severity and sentences, in which stand no labels but those that it has when it fires."""
    rule = ALERTS[alert]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    said = rule["annotations"]
    assert said.keys() == {"summary", "description", "runbook"}
    named = set(re.findall(r"\$labels\.(\w+)", said["summary"] + said["description"]))
    assert all(named <= labels for labels in fires_with(alert))


@pytest.mark.parametrize("alert", ALERTS)
def test_each_has_a_runbook(alert: str) -> None:
    """Its runbook is a heading of the page, with something below it."""
    page, _, anchor = ALERTS[alert]["annotations"]["runbook"].partition("#")
    assert anchor == alert.lower()
    below = (ROOT / page).read_text(encoding="utf-8").partition(f"\n### {alert}\n")[2].partition("\n#")[0]
    assert below.strip()


def reasons(expression: str) -> list[tuple[str, set[str]]]:
    """Return how an expression chooses by the reason, and the words."""
    return [(how, set(words.split("|"))) for how, words in re.findall(r'reason(=~|!~|!=|=)"([^"]*)"', expression)]


def test_reasons_exist() -> None:
    """No rule waits for a word that nobody says."""
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    words = set().union(*(words for rule in rules for _, words in reasons(rule["expr"])))
    assert words
    assert words <= REASONS.keys() | OF_THE_OPERATOR


def test_no_stalled_job_is_passed_over() -> None:
    """What is taken for a FineTuneJob that runs, is done or waits for its turn is none that somebody must mend."""
    chosen = reasons(ALERTS["TunesmithJobsNeedSomebody"]["expr"])
    assert {how for how, _ in chosen} == {"!~"}
    passed_over = set().union(*(words for _, words in chosen)) - OF_THE_OPERATOR
    assert not [word for word in passed_over if NEVER in REASONS[word].retries]
    stands = {name for row in GROUPS["it goes on"] for name in row.names if not row.means.startswith("Never a STATUS")}
    assert stands <= passed_over
