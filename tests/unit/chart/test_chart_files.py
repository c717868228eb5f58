"""The chart's files agree with each other and with the code. What Helm makes of them is tested in tests/integration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import tunesmith
from tunesmith.api.settings import BUILT_IN_PODS, PodSettings, Server, Settings, StorageOf, TrainPodSettings

CHART = Path(__file__).parents[3] / "charts" / "tunesmith"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
README = (CHART / "README.md").read_text(encoding="utf-8")


def leaves(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Yield the paths of all values that are no mapping of other named values."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value and name != "resources":
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a part of the schema, or the definition that it refers to."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return SCHEMA["definitions"][name] if name else schema


def in_schema(path: str) -> Mapping[str, Any]:
    """Return the schema of a value; a KeyError if it has none."""
    schema: Mapping[str, Any] = SCHEMA
    for name in path.split("."):
        schema = resolved(schema["properties"][name])
    return schema


def objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every part of the schema that lists properties."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("properties"), Mapping):
            yield schema
        for part in schema.values():
            yield from objects(part)


def fields(model: type[Any]) -> set[str]:
    """Return the names of a model's fields as YAML spells them."""
    return {info.alias or name for name, info in model.model_fields.items()}


def test_versions() -> None:
    """The chart installs the images of the code that it lies beside."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == tunesmith.__version__
    assert chart["version"] == re.sub(r"\.dev(\d+)$", r"-dev.\1", tunesmith.__version__), "the same, as SemVer has it"


def test_oldest_kubernetes() -> None:
    """What the documents call the oldest Kubernetes is what Helm takes."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    root = CHART.parents[1]
    documents = [
        root / "README.md",
        *(file for name in ("charts", "docs", "hack") for file in (root / name).rglob("*.md")),
    ]
    said = {
        str(file.relative_to(root)): found
        for file in documents
        if (found := re.findall(r"(?:Kubernetes[ |]+)([0-9.]+[0-9]) or newer", file.read_text(encoding="utf-8")))
    }
    assert {"README.md", "docs/install.md", "charts/tunesmith/README.md", "hack/testcluster/README.md"} <= said.keys()
    assert {f">={version}.0-0" for found in said.values() for version in found} == {chart["kubeVersion"]}, said


def test_every_value_is_in_the_readme() -> None:
    """The README explains every value."""
    explained = re.findall(r"^\| (\S+) \|.*\| \S.* \|$", README, re.MULTILINE)
    missing = set(leaves(VALUES)) - set(explained)
    assert not missing


def test_every_value_is_in_the_schema() -> None:
    """No value of values.yaml is refused or unchecked by the schema."""
    for path in leaves(VALUES):
        assert in_schema(path), path


def test_every_property_is_a_value() -> None:
    """Nothing can be set that values.yaml does not show."""
    top = set(SCHEMA["properties"]) - {"global"}
    assert top == set(VALUES)
    for name in top - {"podDefaults"}:
        if isinstance(VALUES[name], Mapping):
            assert set(in_schema(name)["properties"]) == set(VALUES[name]), name


def test_nothing_unknown_is_taken() -> None:
    """A misspelt value is an error at every depth."""
    open_ones = [part for part in objects(SCHEMA) if part.get("additionalProperties") is not False]
    assert open_ones == []


def test_values_go_into_settings() -> None:
    """What can be set for servers, storage and pods is what the operator's settings take, no more and no less."""
    assert set(SCHEMA["definitions"]["server"]["properties"]) == fields(Server)
    assert set(SCHEMA["definitions"]["storage"]["properties"]) == fields(StorageOf)
    assert set(SCHEMA["definitions"]["pods"]["properties"]) == fields(PodSettings)
    assert set(SCHEMA["definitions"]["trainPods"]["properties"]) == fields(TrainPodSettings)
    assert set(in_schema("podDefaults")["properties"]) == fields(type(BUILT_IN_PODS))
    for name in ("network", "trackers"):
        assert set(in_schema(name)["properties"]) == fields(Settings.model_fields[name].default.__class__)


def test_defaults_are_those_of_the_settings() -> None:
    """A value that is left alone means the same as a setting that is left out."""
    default = Settings(stageImage="any")
    storage = default.storage.default.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert {name: value for name, value in VALUES["storage"]["default"].items() if value != ""} == storage
    assert VALUES["operator"]["workers"] == default.workers


def test_fields_of_a_server_are_in_the_readme() -> None:
    """The README explains what an entry of `servers` may hold."""
    section = README.partition("## Servers")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(SCHEMA["definitions"]["server"]["properties"])


def test_built_in_resources_are_in_the_readme() -> None:
    """The README's table of requests and limits is what the operator uses."""
    built_in = {
        (info.alias or name): getattr(BUILT_IN_PODS, name) for name, info in type(BUILT_IN_PODS).model_fields.items()
    }
    rows = {
        ("all others" if stage == "default" else f"`{stage}`"): (pods.resources.requests, pods.resources.limits)
        for stage, pods in built_in.items()
        if pods.resources.requests
    }
    table = re.findall(r"^\| (`\w+`|all others) \| (\S+) CPU, (\S+) \| (\S+) CPU, (\S+) \|$", README, re.MULTILINE)
    found = {row[0]: ({"cpu": row[1], "memory": row[2]}, {"cpu": row[3], "memory": row[4]}) for row in table}
    assert found == rows
    train = BUILT_IN_PODS.train
    saving = f"{train.termination_grace_period_seconds} seconds to save a checkpoint"
    assert f"{train.shared_memory} of shared memory, {saving}, and asks for `{train.gpu_resource_name}`." in README
