"""The chart's dashboard agrees with the metrics, and its panels with each other. tests/integration asks its queries."""

from __future__ import annotations

import itertools
import re

import pytest

from support.dashboard import DASHBOARD, Panel, panels, variables
from unit.chart.test_alerts import RULES

from generating.metrics import metrics  # isort: skip # found by support.generator, which support.dashboard imports

_NAME = re.compile(r"\btunesmith[_:][\w:]+")
_GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")
_CHOSEN = re.compile(r'(\w+)(?:=~|!~|!=|=)"')
_PARTS = {"histogram": ("_bucket", "_sum", "_count")}
RULES_IN_ORDER = [rule for group in RULES["groups"] for rule in group["rules"]]


def grouped_by(query: str) -> set[str]:
    """Return the labels by which a query groups or matches."""
    return {label.strip() for group in _GROUPED.findall(query) for label in group.split(",")}


METRIC_OF = {f"{name}{part}": name for name, kind, _, _ in metrics() for part in _PARTS.get(kind, ("",))}
"""Every series that the operator tells, and its metric as the page has it."""
LABELS_OF = {
    **{f"{name}{part}": {*labels} for name, kind, labels, _ in metrics() for part in _PARTS.get(kind, ("",))},
    **{rule["record"]: grouped_by(rule["expr"]) for rule in RULES_IN_ORDER if "record" in rule},
}
"""The labels that a series has of its own; also of those that rules record."""
OF_THE_TARGET = {"namespace", "job", "le"}
"""Labels that Prometheus adds, and those of buckets."""
ON_PANELS = [query for panel in panels() for query in panel.queries.values()]
IN_RULES = [rule["expr"] for rule in RULES_IN_ORDER]


@pytest.mark.parametrize("query", [*ON_PANELS, *variables().values(), *IN_RULES])
def test_metrics_are_documented(query: str) -> None:
    """A query asks for documented metrics, or recorded ones, and no others."""
    names = set(_NAME.findall(query))
    assert names
    assert names <= LABELS_OF.keys()


@pytest.mark.parametrize("query", [*ON_PANELS, *IN_RULES])
def test_labels_exist(query: str) -> None:
    """What a query groups by or chooses by are labels that one of its metrics has, or that Prometheus adds."""
    own = set().union(*(LABELS_OF[name] for name in _NAME.findall(query)))
    assert grouped_by(query) | set(_CHOSEN.findall(query)) <= own | OF_THE_TARGET


def test_every_metric_is_shown() -> None:
    """Each documented metric is on the dashboard, or in an alert at least."""
    asked = {METRIC_OF.get(name) for query in [*ON_PANELS, *IN_RULES] for name in _NAME.findall(query)}
    assert asked - {None} == {name for name, *_ in metrics()}


def test_panels_have_ids_of_their_own() -> None:
    """Grafana tells panels apart by their ids."""
    ids = [panel.id for panel in panels()]
    assert len(set(ids)) == len(ids)


def test_panels_lie_side_by_side() -> None:
    """No panel covers another or leaves the grid of 24 columns, and each line is full."""
    cells = [cell for panel in panels() for cell in panel.cells]
    assert len(set(cells)) == len(cells)
    last = max(y for _, y in cells)
    assert set(cells) == set(itertools.product(range(24), range(last + 1)))


@pytest.mark.parametrize("panel", [panel for panel in panels() if panel.kind != "row"], ids=lambda panel: panel.title)
def test_each_panel_explains_itself(panel: Panel) -> None:
    """It has a title, a sentence, a query, and the Prometheus that is chosen at the top."""
    assert panel.title
    assert panel.description.endswith(".")
    assert panel.queries
    assert panel.data_sources == {"${datasource}"}


def test_legends_name_labels_that_are_there() -> None:
    """What a legend takes from a series is among the labels that the query leaves."""
    for panel in panels():
        for ref, legend in panel.legends.items():
            kept = grouped_by(panel.queries[ref])
            assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= kept, f"{panel.title} {ref}"


def test_variables_are_declared() -> None:
    """Each `$name` in a query is a variable of the dashboard, or Grafana's own."""
    declared = {item["name"] for item in DASHBOARD["templating"]["list"]}
    used: set[str] = set()
    for query in [*ON_PANELS, *variables().values()]:
        used |= set(re.findall(r"\$\{?(\w+)", query))
    assert used - {"__rate_interval"} == declared - {"datasource"}
