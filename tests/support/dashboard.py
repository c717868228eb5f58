"""The chart's dashboard for Grafana: its panels, and its queries as Grafana asks them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from support.generator import ROOT

FILE = ROOT / "charts" / "tunesmith" / "files" / "dashboard.json"
DASHBOARD: Mapping[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Panel:
    """A panel, or the heading of a row."""

    data: Mapping[str, Any]

    @property
    def id(self) -> int:
        return int(self.data["id"])

    @property
    def kind(self) -> str:
        """Which of Grafana's panels it is, such as ``timeseries``."""
        return str(self.data["type"])

    @property
    def title(self) -> str:
        return str(self.data["title"])

    @property
    def description(self) -> str:
        return str(self.data.get("description", ""))

    @property
    def queries(self) -> Mapping[str, str]:
        """What it asks for, by the letter that Grafana gives."""
        return {target["refId"]: target["expr"] for target in self.data.get("targets", ())}

    @property
    def legends(self) -> Mapping[str, str]:
        """How series are called, by the same letter."""
        return {target["refId"]: target["legendFormat"] for target in self.data.get("targets", ())}

    @property
    def data_sources(self) -> set[str]:
        """What it asks."""
        return {item["datasource"]["uid"] for item in (self.data, *self.data.get("targets", ()))}

    @property
    def cells(self) -> list[tuple[int, int]]:
        """The fields of the grid that it covers, as column and line."""
        place = self.data["gridPos"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        return [(x, y) for y in lines for x in columns]


def panels() -> list[Panel]:
    """Return the panels and the headings of rows."""
    return [Panel(data) for data in DASHBOARD["panels"]]


def variables() -> Mapping[str, str]:
    """Return the queries of the variables, by name."""
    return {item["name"]: item["query"]["query"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"}


def as_asked(query: str, chosen: Mapping[str, str], interval: str) -> str:
    """Return a query as Grafana puts it to Prometheus.

    Args:
        query: as it stands in the dashboard.
        chosen: values of the variables; of the others, all.
        interval: Grafana's ``$__rate_interval``.
    """
    values = {item["name"]: item.get("allValue", "") for item in DASHBOARD["templating"]["list"]}
    values |= {**chosen, "__rate_interval": interval}
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], query)
