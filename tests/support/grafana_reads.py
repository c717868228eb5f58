"""Reads a dashboard with Grafana's own SDK and writes what is wrong with it, a line each. Run by the SDK's interpreter.

    python grafana_reads.py DASHBOARD.json

The SDK passes over what Grafana does not know, so that is what is missing when the dashboard is written again.
"""

from __future__ import annotations

import enum
import json
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder  # type: ignore[import-not-found]
from grafana_foundation_sdk.cog.plugins import register_default_plugins  # type: ignore[import-not-found]
from grafana_foundation_sdk.models.dashboard import Dashboard  # type: ignore[import-not-found]


def differences(given: Any, again: Any, place: str) -> Iterator[str]:
    """Yield what of `given` is not in `again`."""
    if isinstance(given, dict) and isinstance(again, dict):
        for name, value in given.items():
            yield from differences(value, again[name], f"{place}.{name}") if name in again else [f"{place}.{name}"]
    elif isinstance(given, list) and isinstance(again, list) and len(given) == len(again):
        for number, (one, other) in enumerate(zip(given, again, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif given != again:
        yield f"{place}: {given!r} is read as {again!r}"


def wrong_words(value: Any, place: str) -> Iterator[str]:
    """Yield the words that are not among those that Grafana knows there: the SDK takes any."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from wrong_words(item, f"{place}[{number}]")
    elif type(value).__module__.startswith("grafana_foundation_sdk.models") and not isinstance(value, enum.Enum):
        hints = typing.get_type_hints(type(value))
        for name, item in vars(value).items():
            kinds = [hints.get(name), *typing.get_args(hints.get(name))]
            words = {
                str(word.value) for kind in kinds if isinstance(kind, enum.EnumMeta) for word in list[enum.Enum](kind)
            }
            if words and isinstance(item, str) and item not in words:
                yield f"{place}.{name}: {item!r} is unknown"
            yield from wrong_words(item, f"{place}.{name}")


def main() -> int:
    """Write what is wrong; 1 if anything is."""
    register_default_plugins()
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    read = Dashboard.from_json(given)
    again = json.loads(JSONEncoder().encode(read))
    found = [*differences(given, again, "dashboard"), *wrong_words(read, "dashboard")]
    print("\n".join(found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
