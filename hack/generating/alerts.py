"""The table of the chart's alerts, from its rules."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from generating.sections import with_section

RULES = Path(__file__).parents[2] / "charts" / "tunesmith" / "files" / "alerts.yaml"
_LABEL = re.compile(r"\{\{ *\$labels\.(\w+) *\}\}")


def with_table_of_alerts(page: str) -> str:
    """Return `page` with the table of alerts; each leads to the heading that bears its name."""
    lines = ["| alert | severity | says | if that lasts for |", "|---|---|---|---|"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                name, says = rule["alert"], _in_words(rule["annotations"]["summary"])
                lines.append(
                    f"| [{name}](#{name.lower()}) | {rule['labels']['severity']} | {says} | {rule.get('for', '-')} |"
                )
    return with_section(page, "alerts", "\n".join(lines))


def _in_words(template: str) -> str:
    """Return a summary with the names of the labels that an alert puts into it."""
    return _LABEL.sub(r"`\1`", template)
