"""A base model that another job has trained."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from integration.convert.test_merge import tiny_llama, with_adapter
from support.builders import stage_config, write_tokenizer
from tunesmith_stages.contract import ExitCode, Input, StageConfig, StageName, StageResult
from tunesmith_stages.fetch.stage import fetch, resolved
from tunesmith_stages.fetch.trained_job import wait_for
from tunesmith_stages.program import Made, Work, carry_out
from tunesmith_stages.volume import Volume

TEMPLATE = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base model, its prepared data, and what trainings left: an adapter, and a whole model."""
    folder = tmp_path_factory.mktemp("trained")
    model = with_adapter(tiny_llama(torch.float32), folder, target_modules=["q_proj", "v_proj"])
    write_tokenizer(folder / "base")
    (folder / "prepared").mkdir()
    (folder / "prepared" / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "prepared" / "tokens.json").write_text(json.dumps({"endOfTurn": {"id": 1}}))
    model.merge_and_unload().save_pretrained(folder / "whole", max_shard_size="20KB")
    return folder


@pytest.fixture
def root(tmp_path: Path, trained: Path) -> Path:
    """Return a volume with that."""
    return shutil.copytree(trained, tmp_path / "volume")


def train(root: Path, job: str, left: str, seed: int = 1) -> str:
    """Let a job train, which leaves what is in a folder; return the key."""
    inputs = {role: Input(role, "0" * 64) for role in ("base", "prepared")}
    config = stage_config(root, StageName.TRAIN, params={"seed": seed}, inputs=inputs, attempt=f"{job}-{seed}")

    def copy(work: Work) -> Made:
        shutil.copytree(work.volume.root / left, work.out, dirs_exist_ok=True)
        return Made()

    report = carry_out(dataclasses.replace(config, job=job), copy)
    assert report.failure is None
    return config.units[0].key


def based_on(root: Path, job: str, attempt: str = "1", refresh: str = "") -> StageConfig:
    """Return the stage.json of a unit whose source is what a job has trained."""
    params = {"kind": "models", "source": {"job": {"name": job}}, "refresh": refresh}
    return stage_config(root, StageName.FETCH, params=params, unit="base", attempt=attempt, runtime={"resolve": True})


def fetched(config: StageConfig) -> StageResult:
    report = carry_out(config, fetch, resolve=resolved)
    assert report.failure is None, report.failure
    volume = Volume(Path(config.volume))
    found = volume.result(StageName.FETCH, resolved(volume, config.units[0], config.runtime).key)
    assert found is not None
    return found


def weights(folder: Path) -> Mapping[str, Any]:
    state: Mapping[str, Any] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    return state


@pytest.mark.parametrize("left", ["trained", "whole"])
def test_whole_model(root: Path, left: str) -> None:
    """An adapter is merged into its base, a full fine-tuning is taken as it is: transformers loads a whole model.

    It has the base's tokenizer, and the chat template that was trained with.
    """
    key = train(root, "first-bot", left)
    made = fetched(based_on(root, "first-bot"))
    assert made.outputs["trained"] == key
    assert made.outputs["architecture"] == "LlamaForCausalLM"
    folder = root / made.path
    assert not [path for path in folder.iterdir() if path.is_symlink()]
    expected, found = weights(root / "whole"), weights(folder)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == TEMPLATE
    assert (folder / "tokenizer.json").read_bytes() == (root / "base" / "tokenizer.json").read_bytes()
    assert list((root / "stages" / "fetch").glob("*.1")) == []


def test_version_is_what_was_trained(root: Path) -> None:
    """The version is the training's key; a newer training is another one, and what was looked up once stays."""
    first = train(root, "first-bot", "trained")
    config = based_on(root, "first-bot")
    volume = Volume(root)
    assert resolved(volume, config.units[0], {}).params["refresh"] == first
    second = train(root, "first-bot", "whole", seed=2)
    assert resolved(volume, config.units[0], {}).params["refresh"] == second
    assert resolved(volume, based_on(root, "first-bot", refresh=first).units[0], {}).params["refresh"] == first
    assert fetched(based_on(root, "first-bot", refresh=first)).outputs["trained"] == first


def test_training_that_was_there_already(root: Path) -> None:
    """A job whose training another job had done before is a base as well."""
    key = train(root, "first-bot", "trained")
    shutil.rmtree(root / "trained")
    inputs = {role: Input(role, "0" * 64) for role in ("base", "prepared")}
    config = stage_config(root, StageName.TRAIN, params={"seed": 1}, inputs=inputs, attempt="2")
    report = carry_out(dataclasses.replace(config, job="second-bot"), lambda _: Made())
    assert report.units[0].cached
    assert fetched(based_on(root, "second-bot")).outputs["trained"] == key


def test_training_that_shows_late(root: Path) -> None:
    """On NFS a model that was trained on another machine a moment ago may show late: it is waited for, not for ever."""
    key = train(root, "first-bot", "trained")
    there, away = root / "stages" / "train" / key, root / "away"
    there.rename(away)
    late = threading.Timer(0.2, lambda: away.rename(there))
    waited: list[tuple[bool, bool]] = []
    """Whether it was there after the wait, and whether the patience was over by then."""

    def wait(work: Work) -> Made:
        for patience in (0.0, 120.0):
            began = time.monotonic()
            wait_for(work, key, patience)
            waited.append((there.is_dir(), time.monotonic() - began >= patience))
            if not patience:
                late.start()
        return Made()

    assert carry_out(based_on(root, "first-bot", refresh=key), wait).failure is None
    late.join()
    assert waited == [(False, True), (True, False)]


def test_base_that_is_gone(root: Path) -> None:
    """An adapter without its base cannot be made whole."""
    train(root, "first-bot", "trained")
    shutil.rmtree(root / "base")
    failure = carry_out(based_on(root, "first-bot"), fetch, resolve=resolved).failure
    assert failure is not None
    assert (failure.code, failure.reason) == (ExitCode.MISSING_INPUT, "InputLost")
    assert "`base`" in failure.message


def test_job_without_a_model(root: Path) -> None:
    """A job that is this one, is unknown on the volume, or has not trained yet cannot be a base; each is told apart."""
    (root / "runs" / "known").mkdir(parents=True)
    for name, reason in (("support-bot", "JobIsItself"), ("unknown", "JobNotFound"), ("known", "JobNotTrained")):
        failure = carry_out(based_on(root, name, attempt=name), fetch, resolve=resolved).failure
        assert failure is not None
        assert failure.reason == reason
        assert f"`{name}`" in failure.message
