"""Makes the CustomResourceDefinition from the models.

Kubernetes takes *structural* schemas only: no references, no unions with null, a type at every node
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema).
"""

from __future__ import annotations

from typing import Any

from tunesmith.api.finetunejob import FineTuneJob, FineTuneJobSpec
from tunesmith.api.keys import GROUP, KIND, PLURAL, VERSION
from tunesmith.api.problems import pattern_in_words
from tunesmith.api.status import UNSEEN_GENERATION, FineTuneJobStatus
from tunesmith.api.values import CEL_RULES, LIST_KEYS, LIST_TYPE, NAME_PATTERN

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
    "x-kubernetes-preserve-unknown-fields",
    LIST_TYPE,
    LIST_KEYS,
    CEL_RULES,
)
"""What is taken over from pydantic's JSON schema as it is; anything else must be handled by name or is an error."""


_READY = '.status.conditions[?(@.type=="Ready")]'
_COLUMNS: tuple[Schema, ...] = (
    {"name": "Stage", "type": "string", "jsonPath": ".status.progress.stage"},
    {"name": "Status", "type": "string", "jsonPath": f"{_READY}.reason"},
    {"name": "Progress", "type": "string", "jsonPath": ".status.progress.text"},
    {"name": "Loss", "type": "string", "jsonPath": ".status.progress.loss"},
    {"name": "ETA", "type": "string", "jsonPath": ".status.progress.eta"},
    {"name": "Model", "type": "string", "jsonPath": ".spec.ollama.model"},
    {"name": "Ready", "type": "string", "jsonPath": f"{_READY}.status"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Eval Loss", "type": "string", "jsonPath": ".status.progress.evalLoss", "priority": 1},
    {"name": "Tokens/s", "type": "string", "jsonPath": ".status.progress.tokensPerSecond", "priority": 1},
    {"name": "Message", "type": "string", "jsonPath": f"{_READY}.message", "priority": 1},
)
"""What `kubectl get` shows; a column of priority 1 with `-o wide` only."""


def custom_resource_definition() -> Schema:
    """Return the CustomResourceDefinition of FineTuneJob."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["ftj"],
                "categories": ["tunesmith"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [dict(column) for column in _COLUMNS],
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> Schema:
    spec = FineTuneJobSpec.model_json_schema(by_alias=True)
    status = FineTuneJobStatus.model_json_schema(by_alias=True)
    return {
        "type": "object",
        "description": str(FineTuneJob.__doc__),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(spec, spec.pop("$defs")),
            "status": {
                **without_defaults(structural(status, status.pop("$defs"))),
                "default": {"observedGeneration": UNSEEN_GENERATION},
            },
        },
        CEL_RULES: [*_name_rules(), *(rule.as_cel() for rule in FineTuneJob.RULES)],
    }


def _name_rules() -> list[Schema]:
    """Return the rules for the job's name, which stands outside of what a schema of the CRD can bound."""
    info = FineTuneJob.model_fields["metadata"].annotation.model_fields["name"]  # type: ignore[union-attr]
    longest = next(item.max_length for item in info.metadata if hasattr(item, "max_length"))
    return [
        {
            "rule": f"size(self.metadata.name) <= {longest}",
            "message": f"`metadata.name` must have at most {longest} characters",
        },
        {
            "rule": f"self.metadata.name.matches(r'{NAME_PATTERN}')",
            "message": f"`metadata.name` must be {pattern_in_words(NAME_PATTERN)}",
        },
    ]


def without_defaults(schema: Schema) -> Schema:
    """Return a structural schema whose fields have no defaults: what the operator did not write is not there."""
    made = {word: value for word, value in schema.items() if word != "default"}
    if "properties" in made:
        made["properties"] = {name: without_defaults(item) for name, item in made["properties"].items()}
    for word in ("items", "additionalProperties"):
        if word in made:
            made[word] = without_defaults(made[word])
    return made


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
    for pattern, values in schema.get("patternProperties", {}).items():
        made["additionalProperties"] = structural(values, definitions)
        made[CEL_RULES] = [_rule_for_names(pattern), *made.get(CEL_RULES, [])]
    if "items" in schema:
        made["items"] = structural(schema["items"], definitions)
    if isinstance(made.get("default"), dict):
        # The fields' own defaults fill it. Only for rules they must be there already when the CRD is checked.
        filled = _defaults_of(made)
        made["default"] = filled if CEL_RULES in made else {}
        if not filled:
            del made["default"]  # to be absent means the same, and is shorter
    if made.get("default") == []:
        del made["default"]
    return made


def _defaults_of(schema: Schema) -> Schema:
    return {name: item["default"] for name, item in schema["properties"].items() if "default" in item}


def _rule_for_names(pattern: str) -> Schema:
    """Return the rule for a mapping's names, for which there is no word in a structural schema."""
    rule = f"self.all(name, name.matches(r'{pattern}'))"
    return {"rule": rule, "message": f"must have names that are {pattern_in_words(pattern)}"}


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
