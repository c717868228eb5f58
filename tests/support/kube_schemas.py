"""Strict JSON schemas of every kind that an API server knows, for kubeconform; made from the server's own OpenAPI.

So what is checked is what this version of Kubernetes and the installed CustomResourceDefinitions accept, and nothing
has to be downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_KEPT = ("type", "required", "enum", "minimum", "maximum", "pattern", "minLength", "maxLength", "minItems", "maxItems")
_NUMBER_OR_TEXT = {"oneOf": [{"type": "string"}, {"type": "number"}]}
_NUMBERS_OR_TEXTS = ("io.k8s.apimachinery.pkg.api.resource.Quantity", "io.k8s.apimachinery.pkg.util.intstr.IntOrString")
_KINDS = "x-kubernetes-group-version-kind"
Schema = Mapping[str, Any]


def write_schemas(openapi: Schema, folder: Path) -> int:
    """Write a file for each kind in an API server's answer to ``/openapi/v2``; return how many there are."""
    definitions = {name: _strict(schema, name) for name, schema in openapi["definitions"].items()}
    written = 0
    for name, schema in openapi["definitions"].items():
        for kind in schema.get(_KINDS, ()) if "kind" in schema.get("properties", {}) else ():
            parts = (kind["kind"].lower(), kind["group"].partition(".")[0], kind["version"])
            whole = {**definitions[name], "definitions": _reachable(definitions, definitions[name])}
            (folder / f"{'-'.join(filter(None, parts))}.json").write_text(json.dumps(whole), encoding="utf-8")
            written += 1
    return written


def _strict(schema: Schema, name: str = "") -> dict[str, Any]:
    """Return a schema that refuses fields which the API server does not know; it would drop them silently."""
    if name in _NUMBERS_OR_TEXTS or schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return dict(_NUMBER_OR_TEXT)
    if "$ref" in schema:
        return {"anyOf": [{"$ref": schema["$ref"]}, {"type": "null"}]}
    strict = {key: schema[key] for key in _KEPT if key in schema}
    if isinstance(schema.get("items"), Mapping):
        strict["items"] = _strict(schema["items"])
    if "properties" in schema:
        strict["properties"] = {key: _strict(value) for key, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), Mapping):
        strict["additionalProperties"] = _strict(schema["additionalProperties"])
    if "type" in strict and not name:
        strict["type"] = [strict["type"], "null"]  # a null is taken for a field that is not there
    return strict


def _reachable(definitions: Schema, schema: Any) -> dict[str, Any]:
    """Return the definitions that a schema refers to, directly or over others."""
    found: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, Mapping):
            waiting.extend(part.values())
            reference = part.get("$ref")  # a property may be called so, too
            name = reference.rpartition("/")[2] if isinstance(reference, str) else ""
            if name and name not in found:
                found[name] = definitions[name]
                waiting.append(definitions[name])
    return found
