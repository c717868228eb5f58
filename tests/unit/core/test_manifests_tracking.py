"""What the pods of a training are given for its experiment tracker."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from support.pods import children, settings
from tunesmith.core.manifests import Child, ManifestError, child_manifests
from tunesmith_stages.contract import StageConfig, StageName
from tunesmith_stages.track.asked import TOKEN_VARIABLE, TrackerType

MLFLOW = {"spec.training.tracking": {"type": "MLflow", "tokenSecretRef": {"name": "tunesmith-mlflow", "key": "t"}}}
WANDB = {"spec.training.tracking": {"type": "WeightsAndBiases", "project": "team/bots"}}
BOARD = {"spec.training.tracking": {"type": "TensorBoard"}}
SERVERS = {"mlflow": "http://mlflow:5000", "weightsAndBiases": "https://wandb.example.test"}
PROXIES = {"httpProxy": "http://proxy:1", "httpsProxy": "http://proxy:2", "noProxy": ".svc"}


def made(child: Child, **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a stage's program is told, and its variables by name."""
    objects = {manifest["kind"]: manifest for manifest in child_manifests(child, settings(**given))}
    config = StageConfig.from_json(objects["ConfigMap"]["data"]["stage.json"])
    variables = objects["Job"]["spec"]["template"]["spec"]["containers"][0]["env"]
    return dict(config.runtime), {item["name"]: item.get("value", item.get("valueFrom")) for item in variables}


def test_the_address_is_the_administrators_and_the_token_the_kubelets() -> None:
    """The training alone gets both, and a Secret that is not there does not hold up its pod."""
    for stage, child in children(MLFLOW).items():
        runtime, variables = made(child, trackers=SERVERS)
        if stage is StageName.TRAIN:
            assert runtime["tracking"]["url"] == "http://mlflow:5000"
            reference = {"name": "tunesmith-mlflow", "key": "t", "optional": True}
            assert variables[TOKEN_VARIABLE] == {"secretKeyRef": reference}
        else:
            assert "tracking" not in runtime
            assert TOKEN_VARIABLE not in variables
    looks_up = replace(children(MLFLOW)[StageName.TRAIN], lookup=True)
    assert TOKEN_VARIABLE not in made(looks_up, trackers=SERVERS)[1]


def test_the_way_out_is_known_where_a_tracker_is() -> None:
    """Proxies are for a training with a server outside, as for `fetch`; TensorBoard and no tracker need none."""
    wanted = {"HTTP_PROXY": "http://proxy:1", "HTTPS_PROXY": "http://proxy:2", "NO_PROXY": ".svc"}
    for changes, trackers, way_out in (
        (WANDB, SERVERS, True),
        (WANDB, {}, False),
        (BOARD, SERVERS, False),
        ({}, SERVERS, False),
    ):
        variables = made(children(changes)[StageName.TRAIN], trackers=trackers, network=PROXIES)[1]
        assert (variables.items() >= wanted.items()) is way_out
        assert bool(wanted.keys() & variables.keys()) is way_out


@pytest.mark.parametrize("changes", [WANDB, BOARD])
def test_trackers_that_need_no_server(changes: dict[str, Any]) -> None:
    """TensorBoard has none, and W&B's run is kept on the volume where there is none."""
    assert made(children(changes)[StageName.TRAIN])[0]["tracking"]["url"] == ""


@pytest.mark.parametrize("stage", StageName)
def test_mlflow_without_a_server_is_refused_before_anything_is_done(stage: StageName) -> None:
    """The first stage says it already; what was trained before is not held up."""
    child = children(MLFLOW)[stage]
    child_manifests(replace(child, lookup=True), settings())
    if stage in {StageName.CONVERT, StageName.QUANTIZE, StageName.REGISTER}:
        child_manifests(child, settings())
        return
    with pytest.raises(ManifestError, match=re.escape("`spec.training.tracking.type` must not be MLflow")) as refused:
        child_manifests(child, settings())
    assert refused.value.reason == "TrackerNotSetUp"
    assert "trackers.mlflow" in refused.value.hint


def test_what_is_shown_of_a_training() -> None:
    """Settings have the names that they have in the job, whatever they lie in; the tracker itself is none of them."""
    shown = children({**WANDB, "spec.training.lora": {"rank": 8}})[StageName.TRAIN].stage.runtime["tracking"]
    assert shown["params"]["lora.rank"] == "8"
    assert shown["params"]["lora.targetModules"] == "AllLinear"
    assert shown["params"]["learningRate"] == "0.0001"
    assert shown["params"]["gradientCheckpointing"] == "true"
    assert not any(name.startswith("tracking") for name in shown["params"])
    assert (shown["type"], shown["project"]) == ("WeightsAndBiases", "team/bots")
    assert shown["model"].startswith("volume ")


def test_both_sides_know_the_same_trackers() -> None:
    """What a FineTuneJob may name is what the program knows, and the variable with the token has one name."""
    from tunesmith.api.tracking import TrackerType as Named
    from tunesmith.core.manifests import tracking

    assert [*map(str, Named)] == [*map(str, TrackerType)]
    assert tracking._TOKEN == TOKEN_VARIABLE
