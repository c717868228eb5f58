"""The table of the operator's metrics, from the metrics themselves."""

from __future__ import annotations

import importlib
import pkgutil

from generating.sections import with_section
from prometheus_client.metrics import MetricWrapperBase

import tunesmith
from tunesmith.metrics import REGISTRY


def with_table_of_metrics(page: str) -> str:
    """Return `page` with the table of metrics."""
    lines = ["| metric | labels | kind | meaning |", "|---|---|---|---|"]
    for name, kind, labels, meaning in metrics():
        lines.append(f"| `{name}` | {', '.join(f'`{label}`' for label in labels) or '-'} | {kind} | {meaning} |")
    return with_section(page, "metrics", "\n".join(lines))


def metrics() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Return name, kind, labels and meaning of every metric, in the order of names."""
    for module in pkgutil.iter_modules(tunesmith.__path__, "tunesmith."):
        if module.name.endswith("metrics"):
            importlib.import_module(module.name)
    named = REGISTRY._names_to_collectors  # noqa: SLF001 - the library has no list of its labels to read
    made = {id(one): one for one in named.values() if isinstance(one, MetricWrapperBase)}
    found = []
    for one in made.values():
        (described,) = one.describe()
        name = f"{described.name}_total" if described.type == "counter" else described.name
        labels = tuple(one._labelnames)  # noqa: SLF001 - as above
        found.append((name, described.type, labels, described.documentation))
    return sorted(found)
