"""The API reference, from the models: an example with every field, then a table for every object."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from generating.refusals import refusals

from tunesmith.api.finetunejob import MODEL_NAME_PATTERN, FineTuneJob
from tunesmith.api.pods import ENV_PATTERN, Pods
from tunesmith.api.sources import CONFIG_KEY_PATTERN, REPO_PATTERN, REVISION_PATTERN
from tunesmith.api.status import DIGEST_PATTERN, NUMBER_NAME_PATTERN, REASON_PATTERN, FineTuneJobStatus
from tunesmith.api.tracking import PROJECT_PATTERN
from tunesmith.api.values import (
    ANY_SIGN_PATTERN,
    BELOW_ONE_PATTERN,
    LABEL_VALUE_PATTERN,
    MODULE_PATTERN,
    NAME_PATTERN,
    NOT_NEGATIVE_PATTERN,
    QUALIFIED_PATTERN,
    QUANTITY_PATTERN,
    SUBDOMAIN_PATTERN,
    WORD_PATTERN,
)

Schema = Mapping[str, Any]

EXAMPLE = Path(__file__).with_name("every_field.yaml")

_HEAD = """\
<!-- Generated from operator/tunesmith/api/finetunejob.py by `make generate`: edit that. -->

# The API: FineTuneJob

`tunesmith.dev/v1alpha1`, kind `FineTuneJob`, short name `ftj`. One YAML file holds one job.
The command line reads it strictly: a field that is not listed here is an error, with a suggestion.
ConfigMaps may stand in the same file: `tunesmith run` takes datasets from them.
`tunesmith validate FILE` checks a file without running anything.

## Every field at once

No job needs all of them: [the examples](../examples/README.md) are shorter. This one is valid.

```yaml
{example}```

## How values are written

- A **decimal** is a text in quotes, such as `"0.05"` or `"1e-5"`. An unquoted number is refused: programs do not agree
  on the text of a float, and the text enters content keys. A **fraction** is a decimal from `"0"` to below `"1"`.
- A **path** is relative to the volume's root, with forward slashes. It must not be absolute, hold `..`, or lead out of
  the volume over a link.
- A **quantity** is one of Kubernetes, in quotes where it looks like a number: `"4"`, `500m`, `16Gi`.
- A default of "see below" means: the object with all of its own defaults.
"""

_STATUS = """
## The status

The operator writes it below `status`; nobody else does. `kubectl get ftj` shows the most of it in one line,
`kubectl get ftj -o wide` the message of Ready too.
"""

_PATTERNS = {
    NAME_PATTERN: "lower-case letters, digits and hyphens",
    SUBDOMAIN_PATTERN: "lower-case letters, digits, hyphens and dots",
    QUALIFIED_PATTERN: "`name` or `domain/name`",
    LABEL_VALUE_PATTERN: "letters, digits, `-`, `_` and `.`",
    MODEL_NAME_PATTERN: "`[[host/]namespace/]model[:tag]`",
    ENV_PATTERN: "one of the listed",
    BELOW_ONE_PATTERN: "fraction",
    NOT_NEGATIVE_PATTERN: "decimal, 0 or more",
    ANY_SIGN_PATTERN: "decimal",
    QUANTITY_PATTERN: "quantity",
    MODULE_PATTERN: "letters, digits, `.` and `_`",
    WORD_PATTERN: "a name of letters, digits and `_`",
    DIGEST_PATTERN: "sha256",
    NUMBER_NAME_PATTERN: "letters, digits, `.`, `-` and `_`",
    REASON_PATTERN: "one word",
    REPO_PATTERN: "`name` or `owner/name`",
    REVISION_PATTERN: "branch, tag or commit",
    CONFIG_KEY_PATTERN: "letters, digits, `-`, `_` and `.`",
    PROJECT_PATTERN: "letters, digits, blanks, `_`, `.`, `/`, `@` and `-`",
}
_WHOLE = {"fraction", "decimal, 0 or more", "decimal", "quantity", "sha256", "one word"}
"""Patterns that say everything about a text, its length included."""


@cache
def api_reference() -> str:
    """Return the text of ``docs/api.md``."""
    root = FineTuneJob.model_json_schema(by_alias=True)
    definitions = root["$defs"]
    parts = [_HEAD.format(example=EXAMPLE.read_text(encoding="utf-8"))]
    parts += [_section(name, schema, places, definitions) for name, (schema, places) in _objects(root).items()]
    parts += [
        "## What does not go together\n",
        "Each line is what `tunesmith validate` says to a job with that mistake.\n",
        *(f"- `{problem.field}` {problem.message}" for problem in refusals()),
        _STATUS,
        *_status_sections(),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _status_sections() -> list[str]:
    root = FineTuneJobStatus.model_json_schema(by_alias=True)
    return [_section(name, schema, places, root["$defs"]) for name, (schema, places) in _objects(root).items()]


def _objects(root: Schema) -> dict[str, tuple[Schema, list[str]]]:
    """Return every object of the API by its name, from the outside in, with its places in the YAML."""
    found: dict[str, tuple[Schema, list[str]]] = {root["title"]: (root, [])}
    _add_objects_in(root, "", root["$defs"], found)
    return found


def _add_objects_in(schema: Schema, path: str, definitions: Schema, found: dict[str, tuple[Schema, list[str]]]) -> None:
    for field, item in schema["properties"].items():
        name = _object_name(item, definitions)
        if name is not None:
            place = f"{path}.{field}".lstrip(".") + ("[]" if "items" in _value(item) else "")
            found.setdefault(name, (definitions[name], []))[1].append(place)
            _add_objects_in(definitions[name], place, definitions, found)


def _section(name: str, schema: Schema, places: list[str], definitions: Schema) -> str:
    lines = [f"## {name}\n", f"{_one_line(schema['description'])}\n"]
    if places:
        lines.append(f"At {' and '.join(f'`{place}`' for place in _merged(places))}.\n")
    lines += ["| field | type and bounds | default | meaning |", "|---|---|---|---|"]
    required = set(schema.get("required", ()))
    for field, item in schema["properties"].items():
        default = "required" if field in required else _default(item, definitions)
        meaning = item.get("description") or _resolved(item, definitions).get("description", "")
        cells = (f"`{field}`", _type(item, definitions), default, _one_line(meaning))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _merged(places: list[str]) -> list[str]:
    """Return places with `*` for the stage where an object is at more than one of them."""
    stages = f"({'|'.join(Pods.model_json_schema(by_alias=True)['properties'])})"
    merged = [re.sub(rf"^spec\.pods\.{stages}\b", "spec.pods.*", place) for place in places]
    return list(dict.fromkeys(merged)) if len(places) > 2 else places


# --- one field -------------------------------------------------------------------------------------------------------


def _value(item: Schema) -> Schema:
    """Return the schema of a field's value, without the possibility that it is left out."""
    if "anyOf" not in item:
        return item
    (value,) = (choice for choice in item["anyOf"] if choice.get("type") != "null")
    return dict(value)


def _resolved(item: Schema, definitions: Schema) -> Schema:
    value = _value(item)
    return definitions[value["$ref"].rpartition("/")[2]] if "$ref" in value else value


def _object_name(item: Schema, definitions: Schema) -> str | None:
    """Return the name of the object that a field holds, or of which it holds a list; None if it holds none."""
    value = _value(item)
    reference = value.get("$ref") or value.get("items", {}).get("$ref")
    if reference is None:
        return None
    name = reference.rpartition("/")[2]
    return name if "properties" in definitions[name] else None


def _default(item: Schema, definitions: Schema) -> str:
    default = item.get("default")
    if default is None:
        return "-"
    if isinstance(default, dict):
        return "see below" if _object_name(item, definitions) else "-"
    return f"`{json.dumps(default, ensure_ascii=False)}`" if not _is_word(item, definitions) else f"`{default}`"


def _is_word(item: Schema, definitions: Schema) -> bool:
    return "enum" in _resolved(item, definitions)


def _type(item: Schema, definitions: Schema) -> str:
    """Return the type and bounds of a field in words.

    Raises:
        ValueError: the schema holds something that there are no words for yet.
    """
    name = _object_name(item, definitions)
    schema = _resolved(item, definitions)
    kind = schema.get("type")
    if kind == "array":
        bounds = _bounds(schema, "Items")
        inner = f"[{name}](#{name.lower()})" if name else _type(schema["items"], definitions)
        return f"list{f' of {bounds}' if bounds else ''}: {inner}"
    if name:
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if kind == "boolean":
        return "`true`, `false`"
    if kind == "integer":
        return ", ".join(part for part in ("integer", _bounds(schema, "imum")) if part)
    if kind == "string":
        return _text(schema)
    if kind == "object":
        return _map(schema, definitions)
    raise ValueError(f"no words for the schema {schema}")


def _text(schema: Schema) -> str:
    pattern = schema.get("pattern")
    words = _PATTERNS[pattern] if pattern else ""
    if words in _WHOLE:
        return words
    bounds = _bounds(schema, "Length")
    parts = ("text", f"{bounds} characters" if bounds else "", words)
    return ", ".join(part for part in parts if part)


def _map(schema: Schema, definitions: Schema) -> str:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return "mapping of columns to values of any kind"
    bounds = _bounds(schema, "Properties")
    ((pattern, values),) = schema["patternProperties"].items()
    named = f"mapping{f' of {bounds}' if bounds else ''} from {_PATTERNS[pattern]}"
    return f"{named} to {_type(values, definitions)}"


def _bounds(schema: Schema, of: str) -> str:
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    if least is not None and most is not None:
        return f"{least:,} to {most:,}"
    if most is not None:
        return f"at most {most:,}"
    return f"at least {least:,}" if least is not None else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
