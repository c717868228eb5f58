from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from support.builders import REMOVED, job_data
from tunesmith.api.crd import custom_resource_definition, structural
from tunesmith.api.finetunejob import MODEL_NAME_PATTERN, FineTuneJob, FineTuneJobSpec
from tunesmith.api.kube_yaml import KubeLoader, dump
from tunesmith.api.status import FineTuneJobStatus
from tunesmith.api.values import CEL_RULES, LIST_KEYS, LIST_TYPE, ApiModel
from tunesmith_stages.model_name import problem
from tunesmith_stages.ollama_parameters import PARAMETERS

CRD = custom_resource_definition()
SCHEMA: dict[str, Any] = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
Node = dict[str, Any]


def nodes(schema: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield every schema of a tree with its path."""
    yield path, schema
    for name, item in schema.get("properties", {}).items():
        yield from nodes(item, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in schema:
            yield from nodes(schema[word], f"{path}[]")


ALL = dict(nodes(SCHEMA))


def complaints(value: Any, schema: Node, path: str = "") -> list[str]:
    """Return what the API server would say of a value, for the words that the schema uses."""
    kinds: Mapping[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if not isinstance(value, kinds[schema["type"]]) or (schema["type"] == "integer" and isinstance(value, bool)):
        return [f"{path}: is no {schema['type']}"]
    said = [f"{path}: not one of {schema['enum']}"] if value not in schema.get("enum", [value]) else []
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", {})
        said += [f"{path}.{name}: missing" for name in schema.get("required", ()) if name not in value]
        if properties:
            said += [f"{path}.{name}: unknown" for name in value if name not in properties]
        for name, item in value.items():
            said += (
                complaints(item, properties.get(name) or more, f"{path}.{name}") if name in properties or more else []
            )
    elif isinstance(value, list):
        said += [
            text for index, item in enumerate(value) for text in complaints(item, schema["items"], f"{path}[{index}]")
        ]
    elif isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        said.append(f"{path}: {value!r} does not match {schema['pattern']}")
    for word, size, sign in (
        ("minimum", value, 1), ("maximum", value, -1),
        ("minLength", value, 1), ("maxLength", value, -1),
        ("minItems", value, 1), ("maxItems", value, -1), ("maxProperties", value, -1),
    ):  # fmt: skip
        if word in schema:
            number = size if isinstance(size, int) else len(size)
            said += [f"{path}: {word} is {schema[word]}"] if (number - schema[word]) * sign < 0 else []
    return said


# --- structural ------------------------------------------------------------------------------------------------------


def test_nothing_that_is_not_structural() -> None:
    """Kubernetes refuses references, unions and null in a structural schema."""
    text = yaml.safe_dump(SCHEMA)
    for word in ("$ref", "$defs", "anyOf", "allOf", "oneOf", "patternProperties", "const:", "nullable", "title:"):
        assert word not in text
    assert all(node["type"] in {"object", "array", "string", "integer", "boolean"} for node in ALL.values())
    assert all(None not in node.values() for node in ALL.values())


def test_every_field_is_described() -> None:
    """`kubectl explain` has a sentence for every field, but for Kubernetes' own three."""
    silent = {path for path, node in ALL.items() if "description" not in node and not path.endswith("[]")}
    assert silent == {".apiVersion", ".kind", ".metadata"}
    for path, node in ALL.items():
        assert "\n" not in node.get("description", ""), path


def test_every_object_says_what_is_in_it() -> None:
    """An object without fields would have everything in it pruned by the API server."""
    for path, node in ALL.items():
        if node["type"] == "object" and path != ".metadata":
            keeps_all = node.get("x-kubernetes-preserve-unknown-fields", False)
            assert keeps_all == (path == ".spec.datasets[].inline[]"), "rows have any columns"
            assert keeps_all or node.get("properties") or node.get("additionalProperties"), path
        if node["type"] == "array":
            assert "maxItems" in node, path
            assert "items" in node, path


def test_required_fields_have_no_default() -> None:
    """What must be given is in the schema as a field of its own."""
    for path, node in ALL.items():
        for name in node.get("required", ()):
            assert "default" not in node["properties"][name], path


# --- defaults --------------------------------------------------------------------------------------------------------

DEFAULTS = {path: node for path, node in ALL.items() if "default" in node}


def test_there_are_defaults() -> None:
    """Defaults are in the CRD, so that a stored job says what it was run with."""
    assert {".spec.training.learningRate", ".spec.export.quantizations", ".spec.training"} <= DEFAULTS.keys()


@pytest.mark.parametrize("path", DEFAULTS)
def test_default_is_valid_for_its_own_schema(path: str) -> None:
    """The API server refuses a CRD whose defaults do not fit."""
    assert complaints(DEFAULTS[path]["default"], DEFAULTS[path]) == []


def defaulted(value: Any, schema: Node) -> Any:
    """Return a value with the schema's defaults filled in, as the API server does."""
    if isinstance(value, dict) and "properties" in schema:
        value = {**{n: s["default"] for n, s in schema["properties"].items() if "default" in s}, **value}
        return {name: defaulted(item, schema["properties"].get(name, {})) for name, item in value.items()}
    if isinstance(value, list):
        return [defaulted(item, schema["items"]) for item in value]
    return value


JOBS: dict[str, dict[str, Any]] = {
    "smallest": {},
    "with empty objects": {"spec.training.lora": {}, "spec.training.validation": {}, "spec.training.checkpoint": {}},
    "built-in data": {
        "spec.datasets.+": {
            "name": "identity",
            "builtin": "SelfCognition",
            "substitutions": {"name": "Tunny", "author": "Acme"},
            "maxSamples": 500,
        }
    },
    "pods": {
        "spec.storage": {"claimName": "nfs", "supplementalGroups": [1]},
        "spec.pods": {
            "default": {"nodeSelector": {"a.b/c": "d"}, "tolerations": [{"operator": "Exists"}]},
            "train": {"env": [{"name": "NCCL_DEBUG"}], "resources": {"limits": {"memory": "1Gi"}}},
        },
        "spec.scheduling.queueName": "team-a",
    },
    "a GGUF with defaults that are written otherwise": {
        "spec.model": {"gguf": {"path": "m.gguf"}},
        "spec.datasets": REMOVED,
        "spec.training": {"learningRate": "1e-4", "weightDecay": "0.00", "maxGradNorm": "1.0", "checkpoint": {}},
    },
    "columns of pairs": {
        "spec.datasets.0.columns": {"prompt": "question", "chosen": "better", "rejected": "worse"},
        "spec.training.method": "DPO",
    },
    "one of the columns of pairs": {"spec.datasets.0.columns": {"chosen": "a"}, "spec.training.method": "ORPO"},
    "columns of labels": {
        "spec.datasets.0.columns": {"messages": "talk", "desirable": "good"},
        "spec.training.method": "KTO",
    },
    "two dots and a line feed, which lead nowhere": {"spec.model.volume.path": "..\n"},
    "everything": {
        "spec.model.chatTemplate": {"jinja": "{{ messages }}"},
        "spec.datasets.0.columns": {"prompt": "question", "response": "answer"},
        "spec.training.validation": {"fraction": "0.05", "evalSteps": 10},
        "spec.training.lora": {"rank": 8, "dropout": "0.05", "targetModules": ["q_proj", "v_proj"]},
        "spec.training.deepspeed": {"zeroStage": 3},
        "spec.export": {"outType": "F16", "quantizations": ["Q4_0", "Q8_0", "F16"]},
        "spec.ollama.parameters": {"num_ctx": 4096, "temperature": "0.7", "stop": ["###"]},
        "spec.ollama.smokeTests": [{"prompt": "Who are you?", "expect": "Tunny"}],
    },
}


@pytest.mark.parametrize("name", JOBS)
def test_what_the_models_take_the_schema_takes(name: str) -> None:
    """A job that `tunesmith validate` takes is taken by the API server, which then adds the models' own defaults."""
    data = job_data(JOBS[name])
    parsed = FineTuneJob.model_validate(data)
    assert complaints(data, {**SCHEMA, "properties": {**SCHEMA["properties"], "metadata": {"type": "object"}}}) == []
    stored = defaulted(data, SCHEMA)
    assert stored.pop("status") == {"observedGeneration": -1}
    assert FineTuneJob.model_validate(stored) == parsed


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a number for a text": ({"spec.training.learningRate": 1}, ".spec.training.learningRate: is no string"),
    "out of range": ({"spec.training.sequenceLength": 1}, ".spec.training.sequenceLength: minimum is 16"),
    "not one of": ({"spec.training.deepspeed": {"zeroStage": 1}}, ".spec.training.deepspeed.zeroStage: not one of"),
    "no model": ({"spec.ollama": {}}, ".spec.ollama.model: missing"),
    "a bad name": ({"spec.ollama.model": "a b"}, ".spec.ollama.model: 'a b' does not match"),
    "a list too short": ({"spec.ollama.servers": []}, ".spec.ollama.servers: minItems is 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bounds_are_in_the_schema(name: str) -> None:
    """What one field alone makes invalid is refused by the API server, too."""
    changes, words = REFUSED[name]
    assert any(words in text for text in complaints(job_data(changes), SCHEMA))


@pytest.mark.parametrize(("model", "place"), [(FineTuneJobSpec, "spec"), (FineTuneJobStatus, "status")])
def test_same_fields_as_the_models(model: type[BaseModel], place: str) -> None:
    """No field of the models is missing in the schema, and none is there that they do not have."""

    def walk(model: type[BaseModel], schema: Node) -> None:
        names = {info.alias or name for name, info in model.model_fields.items()}
        assert names == schema["properties"].keys()
        for name, info in model.model_fields.items():
            annotation = info.annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                walk(annotation, schema["properties"][info.alias or name])

    walk(model, SCHEMA["properties"][place])


def test_what_says_nothing_is_not_stored() -> None:
    """An empty list or object is the same as none: stored jobs are not longer than what they say."""
    stored = defaulted(job_data(), SCHEMA)["spec"]
    assert not {"pods", "storage", "scheduling"} & stored.keys()
    assert {**stored, "training": {}} == {
        **job_data()["spec"],
        "datasets": [
            {
                "name": "faq",
                "volume": {"path": "data/faq.json"},
                "use": "Training",
                "format": "Auto",
                "weight": "1",
                "onBadRow": "Fail",
            }
        ],
        "training": {},
        "suspend": False,
        "dryRun": False,
        "export": {
            "outType": "BF16",
            "quantizations": ["Q4_K_M"],
            "importanceMatrix": "Auto",
            "keepMerged": False,
        },
        "ollama": {"model": "support-bot:v1", "servers": ["main"], "method": "API", "deletionPolicy": "Retain"},
        "ttlSecondsAfterFinished": 604_800,
    }


# --- rules, lists, status --------------------------------------------------------------------------------------------


def models_below(model: type[BaseModel]) -> set[type[BaseModel]]:
    """Return a model and those of all objects below it."""
    found: set[type[BaseModel]] = {model}

    def walk(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if annotation not in found:
                found.add(annotation)
                for info in annotation.model_fields.values():
                    walk(info.annotation)
            return
        for item in getattr(annotation, "__args__", ()):
            walk(item)

    for info in model.model_fields.values():
        walk(info.annotation)
    return found


RULES = [rule for model in models_below(FineTuneJobSpec) if issubclass(model, ApiModel) for rule in model.RULES]
RULES_OF_THE_CRD = [rule for node in ALL.values() for rule in node.get(CEL_RULES, ())]


def test_every_rule_of_the_models_is_one_of_the_crd() -> None:
    """What `tunesmith validate` refuses is refused by the API server, in the same words."""
    assert len(RULES) >= 17
    for rule in RULES:
        assert rule.cel
        assert rule.as_cel() in RULES_OF_THE_CRD, rule.message


def test_rules_of_single_values_are_in_the_crd() -> None:
    """Rules beside the type of a field, and those for a mapping's names, get there as well."""
    at = {path: [rule["message"] for rule in node.get(CEL_RULES, ())] for path, node in ALL.items()}
    assert at[".spec.training.learningRate"] == ["must be above 0"]
    assert "must not contain '..'" in at[".spec.model.volume.path"][0]
    assert "must not contain '..'" in at[".spec.storage.subPath"][0]
    assert "a name of letters" in at[".spec.datasets[].substitutions"][0]
    assert len(at[".spec.ollama.model"]) == 2
    for stage in ("default", "train", "register"):
        assert len(at[f".spec.pods.{stage}.labels"]) == len(at[f".spec.pods.{stage}.annotations"]) == 3
    assert ["size(self.metadata.name)" in rule["rule"] for rule in SCHEMA[CEL_RULES]] == [True, False, False]


def test_named_lists_are_maps() -> None:
    """Two writers who change different items of a list do not undo each other's."""
    kinds = {path: (node[LIST_TYPE], node.get(LIST_KEYS)) for path, node in ALL.items() if LIST_TYPE in node}
    wanted: dict[str, tuple[str, list[str] | None]] = {
        ".spec.datasets": ("map", ["name"]),
        ".spec.export.quantizations": ("set", None),
        ".spec.ollama.servers": ("set", None),
        ".spec.pods.train.env": ("map", ["name"]),
        ".status.conditions": ("map", ["type"]),
        ".status.stages": ("map", ["name"]),
        ".status.stages[].units": ("map", ["name"]),
        ".status.ollama": ("map", ["server"]),
    }
    assert kinds.items() >= wanted.items()
    for path, (kind, keys) in kinds.items():
        if kind == "map":
            assert set(keys or ()) <= set(ALL[f"{path}[]"]["required"]), path


def test_status_has_no_defaults() -> None:
    """What the operator did not write does not appear. Only a job that it has not seen is told by its generation."""
    assert [path for path in DEFAULTS if path.startswith(".status")] == [".status"]
    assert DEFAULTS[".status"]["default"] == {"observedGeneration": -1}


def test_columns_show_fields_that_there_are() -> None:
    """A column whose path is misspelt would be empty for ever."""
    version = CRD["spec"]["versions"][0]
    assert version["subresources"] == {"status": {}}
    columns = version["additionalPrinterColumns"]
    names = ["Stage", "Status", "Progress", "Loss", "ETA", "Model", "Ready", "Age"]
    wide = ["Eval Loss", "Tokens/s", "Message"]
    assert [column["name"] for column in columns] == [*names, *wide]
    for column in columns:
        path = column["jsonPath"].replace('[?(@.type=="Ready")]', "[]")
        assert path in ALL or path == ".metadata.creationTimestamp"
    assert [column["name"] for column in columns if column.get("priority")] == wide


def test_unknown_words_are_an_error() -> None:
    """A word of JSON schema that has no structural form is not dropped silently."""
    with pytest.raises(ValueError, match="no structural form"):
        structural({"type": "string", "contentEncoding": "base64"}, {})


# --- as text ---------------------------------------------------------------------------------------------------------


def test_text_reads_back_as_it_was() -> None:
    """Read as kubectl reads, the YAML is the CRD: a default such as 0.0001 stays a text."""
    text = dump(CRD)
    assert yaml.load(text, Loader=KubeLoader) == CRD  # noqa: S506 - a safe loader
    assert "default: '0.0001'" in text
    assert not re.search(r"default: [0-9]*\.[0-9]", text)


KUBE_TEXTS = ["1e-4", "2E5", "1e4", "-1e+3", "1.5e-3", "0.1", "1", "true", "null", "~", "yes", "0x1f", "12:30", "", "-"]


@pytest.mark.parametrize("text", KUBE_TEXTS)
def test_texts_stay_texts(text: str) -> None:
    """Whatever a text looks like, writing and reading YAML gives it back as a text."""
    assert yaml.load(dump({"x": text}), Loader=KubeLoader) == {"x": text}  # noqa: S506 - a safe loader


# --- the same rules in other places ----------------------------------------------------------------------------------

MODEL_NAMES = [
    "bot",
    "bot:v1",
    "team/bot",
    "reg.local:5000/team/bot:v1",
    "a_b-c.d:x_y",
    "_x",
    "x" * 80 + ":" + "y" * 80,
]
NO_MODEL_NAMES = [
    "",
    "-bot",
    "bot:",
    "a b",
    "a//b",
    "/a",
    "a/",
    "x" * 81,
    "a.b/c",
    "a:b/c",
    "h/n/m/x",
    "ü",
    "a:b:c",
    "bot\n",
]


@pytest.mark.parametrize("name", MODEL_NAMES + NO_MODEL_NAMES)
def test_pattern_of_model_names_is_that_of_the_server(name: str) -> None:
    """The schema's pattern takes the names that the rules of the stage `register` take."""
    allowed = name in MODEL_NAMES
    assert (problem(name) is None) == allowed
    assert bool(re.search(MODEL_NAME_PATTERN.replace("$", r"\Z"), name)) == allowed


def test_ollama_takes_every_parameter_that_is_offered() -> None:
    """A parameter that the API offers is one that `register` passes on: it must not be refused after the training."""
    offered = SCHEMA["properties"]["spec"]["properties"]["ollama"]["properties"]["parameters"]["properties"]
    assert offered.keys() <= PARAMETERS.keys()
