"""YAML as kubectl reads and writes it, where PyYAML would not.

To kubectl `1e-5` is a number, `2026-01-31` and `12:30` are texts; PyYAML takes them the other way round.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_TEXT = "tag:yaml.org,2002:str"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_WITH_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_OTHER_LINE_ENDS = re.compile("[\r\x85\u2028\u2029]")
"""YAML takes them for ends of lines, too, and gives them back as others if they are not escaped."""
_FIRST_CHARACTERS = list("-+0123456789")


class KubeLoader(yaml.SafeLoader):
    """Reads plain data only."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """Return the tag of a node; numbers to the base of 60 are of YAML 1.1 and texts to kubectl."""
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return _TEXT if tag in {_INT, _FLOAT} and ":" in value else tag


KubeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
KubeLoader.add_implicit_resolver(_FLOAT, _WITH_EXPONENT, _FIRST_CHARACTERS)


class _KubeDumper(yaml.SafeDumper):
    """Quotes every text that would be read as something else, and writes everything out: no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's signature
        """Say that no value is to be written as a reference to another place."""
        return True


def _text(dumper: _KubeDumper, text: str) -> yaml.Node:
    """Write a text of several lines line by line, as people would, if it is read back as it was."""
    style = '"' if _OTHER_LINE_ENDS.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar(_TEXT, text, style=style)


_KubeDumper.add_representer(str, _text)
_KubeDumper.add_implicit_resolver(_FLOAT, _WITH_EXPONENT, _FIRST_CHARACTERS)


def dump(value: Any) -> str:
    """Return the YAML of plain data, its keys in their own order, safe to be read by kubectl."""
    return yaml.dump(value, Dumper=_KubeDumper, sort_keys=False, allow_unicode=True, width=120)
