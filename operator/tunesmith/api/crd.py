"""Makes the CustomResourceDefinition from the models.

Kubernetes takes *structural* schemas only: no references, no unions with null, a type at every node
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema).
"""

from __future__ import annotations

from typing import Any

from tunesmith.api.finetunejob import GROUP, KIND, VERSION, FineTuneJob, FineTuneJobSpec

Schema = dict[str, Any]

_TAKEN_OVER = (
    "type",
    "description",
    "default",
    "enum",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
)
"""What is taken over from pydantic's JSON schema as it is; anything else must be handled by name or is an error."""


def custom_resource_definition() -> Schema:
    """Return the CustomResourceDefinition of FineTuneJob."""
    plural = f"{KIND.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": plural,
                "singular": KIND.lower(),
                "shortNames": ["ftj"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [
                        {"name": "Model", "type": "string", "jsonPath": ".spec.ollama.model"},
                        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                    ],
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> Schema:
    spec = FineTuneJobSpec.model_json_schema(by_alias=True)
    definitions = spec.pop("$defs")
    return {
        "type": "object",
        "description": str(FineTuneJob.__doc__),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(spec, definitions),
        },
    }


def structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return pydantic's JSON schema as a structural one, with every reference replaced by what it names.

    Raises:
        ValueError: the schema holds something that has no structural form here.
    """
    schema = _resolve(schema, definitions)
    unknown = schema.keys() - {
        *_TAKEN_OVER,
        "title",
        "properties",
        "items",
        "additionalProperties",
        "patternProperties",
    }
    if unknown:
        raise ValueError(f"no structural form for {sorted(unknown)}: {schema}")
    made = {name: schema[name] for name in _TAKEN_OVER if name in schema}
    if made.get("default") is None:
        made.pop("default", None)
    if "description" in made:
        made["description"] = " ".join(made["description"].split())
    if "properties" in schema:
        made["properties"] = {name: structural(item, definitions) for name, item in schema["properties"].items()}
    for values in schema.get("patternProperties", {}).values():  # a pattern of names has no structural form
        made["additionalProperties"] = structural(values, definitions)
    if "items" in schema:
        made["items"] = structural(schema["items"], definitions)
    if isinstance(made.get("default"), dict):
        made["default"] = {}  # the fields' own defaults fill it
    return made


def _resolve(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return a schema without its reference or its union with null; what stands beside them goes first."""
    beside = {name: item for name, item in schema.items() if name not in {"$ref", "anyOf", "allOf"}}
    if "$ref" in schema:
        inner = definitions[schema["$ref"].rpartition("/")[2]]
    elif "anyOf" in schema:
        (inner,) = (item for item in schema["anyOf"] if item.get("type") != "null")
    else:
        return schema
    return {**_resolve(inner, definitions), **beside}
