"""The Kubernetes objects of the examples, and of a job with everything set, are what they were, and safe."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.generator import GOLDEN_MANIFESTS, ROOT, golden_manifests
from support.pods import pods_in, require_bounds, require_restricted
from tunesmith.api.kube_yaml import KubeLoader
from tunesmith_stages.contract import StageConfig, StageName

EXAMPLES = [path.parent.name for path in sorted(ROOT.glob("examples/*/finetunejob.yaml"))]
CASES = [*EXAMPLES, "everything"]


@cache
def objects_in(case: str) -> list[dict[str, Any]]:
    text = (ROOT / GOLDEN_MANIFESTS / f"{case}.yaml").read_text(encoding="utf-8")
    return list(yaml.load_all(text, KubeLoader))


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, str):
        yield value


@pytest.fixture(scope="module")
def wanted() -> dict[Path, str]:
    """Return what the files should hold, made once."""
    made: dict[Path, str] = golden_manifests(ROOT)
    return made


@pytest.mark.parametrize("case", CASES)
def test_manifests_stay(case: str, wanted: dict[Path, str]) -> None:
    """What the operator creates does not change without somebody seeing it."""
    path = GOLDEN_MANIFESTS / f"{case}.yaml"
    assert (ROOT / path).read_text(encoding="utf-8") == wanted[path], (
        "a manifest changed: if that is meant, `make generate` and commit what it writes"
    )
    assert {item.stem for item in wanted} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted_and_bounded(case: str) -> None:
    """Every pod meets the standard "restricted" and says what it needs and what it takes at most."""
    pods = list(pods_in(objects_in(case)))
    assert len(pods) == len(StageName)
    for pod in pods:
        require_restricted(pod)
        require_bounds(pod)


@pytest.mark.parametrize("case", CASES)
def test_every_stage_finds_its_input(case: str) -> None:
    """The objects of a stage come in the order in which they need each other, and its stage.json can be read."""
    objects = objects_in(case)
    for stage in StageName:
        own = [item for item in objects if item["metadata"]["labels"]["tunesmith.dev/stage"] == stage]
        assert [item["kind"] for item in own] in (["ConfigMap", "Job"], ["ConfigMap", "Service", "Job"])
        assert len({(item["metadata"]["name"], item["metadata"]["namespace"]) for item in own}) == 1
        config = StageConfig.from_json(own[0]["data"]["stage.json"])
        assert (config.stage, config.job) == (stage, own[0]["metadata"]["labels"]["tunesmith.dev/job"])
        volumes = own[-1]["spec"]["template"]["spec"]["volumes"]
        assert {"name": "config", "configMap": {"name": own[0]["metadata"]["name"]}} in volumes


def test_everything_is_in_the_case_with_everything() -> None:
    """Every field that a job or an administrator can give for pods has left something in the golden file."""
    texts = {text for item in objects_in("everything") for text in texts_in(item) if len(text) < 200}
    assert texts >= {
        *("team-a-nfs", "jobs/team-a/experiments", "registry.example.com/tunesmith/stages:1.0.0", "Always"),
        *("mirror", "team-a-registry", "east", "h100", "batch", "shared", "nvidia.com/gpu", "4711", "ml", "a"),
        *("rdma-net", "mlx5", "WARN", "UTC", "nvidia", "gang-scheduler", "64Gi", "512Gi", "256Gi"),
        *("http://proxy.example.com:3128", "https://hub.example.com", "https://scope.example.com", "tunesmith-exec"),
    }
    assert not texts & {"low", "16Gi", "http://another.example.com:11434"}
