"""Every example is valid, asks for what it says, and brings data that its job can read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from support.builders import carried_out
from support.generator import ROOT
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.parse import parse_job
from tunesmith.core.model import StageState
from tunesmith.core.plan import _estimated
from tunesmith_stages.contract import StageName
from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.reader import read_conversations
from tunesmith_stages.prepare.recognition import reader_for
from tunesmith_stages.prepare.rows import read_batches
from tunesmith_stages.rehearse.doubts import doubts

FOLDERS = {path.name: path for path in sorted(ROOT.glob("examples/[0-9]*"))}
OWN_DATA = [name for name in FOLDERS if (FOLDERS[name] / "data").is_dir()]


def job_of(example: str) -> FineTuneJob:
    return parse_job((FOLDERS[example] / "finetunejob.yaml").read_text(encoding="utf-8"))


def params_of(example: str, stage: StageName) -> dict[str, Any]:
    current, _ = carried_out(job_of(example))
    return dict(current.stage(stage).units[0].params)


@pytest.mark.parametrize("example", FOLDERS)
def test_an_example_can_be_planned_to_its_end(example: str) -> None:
    """Every example parses, and its plan comes to an end with every stage done."""
    current, _ = carried_out(job_of(example))
    assert {stage.name: stage.state for stage in current.stages} == dict.fromkeys(StageName, StageState.DONE)
    assert len(current.stage(StageName.QUANTIZE).units) == len(job_of(example).spec.export.quantizations)


@pytest.mark.parametrize("example", FOLDERS)
def test_an_example_says_what_it_is(example: str) -> None:
    """Every example has a README and a line in the list of examples."""
    assert (FOLDERS[example] / "README.md").is_file()
    assert f"]({example}" in (ROOT / "examples/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", OWN_DATA)
def test_the_data_of_an_example_fit_its_job(example: str, tmp_path: Path) -> None:
    """Each row of an example's own data can be read in the format and the columns that its job names."""
    params = params_of(example, StageName.PREPARE)
    datasets = [dataset for dataset in job_of(example).spec.datasets if dataset.volume is not None]
    assert datasets
    how = {item["name"]: item for item in params["datasets"]}
    for dataset in datasets:
        assert dataset.volume is not None
        given, folder = how[dataset.name], tmp_path / dataset.name
        folder.mkdir()
        source = FOLDERS[example] / dataset.volume.path
        for file in source.iterdir() if source.is_dir() else [source]:
            (folder / file.name).write_bytes(file.read_bytes())
        reader = reader_for(given, folder, params.get("preferences"))
        read = [row for batch in read_batches(folder) for row in read_conversations(batch, reader)]
        conversations = [row for row in read if isinstance(row, Conversation)]
        assert len(conversations) == len(read) >= 20
        assert all(len(conversation.messages) >= 2 for conversation in conversations)
        if "preferences" in params:
            assert all(conversation.rejected for conversation in conversations), "a pair has two answers"
        assert len({str(conversation.messages) for conversation in conversations}) == len(read), "a row is there twice"


ASKED_FOR: dict[str, dict[StageName, dict[str, Any]]] = {
    "03-full-zero3": {
        StageName.PREPARE: {"sequenceLength": 1024, "validationFraction": "0.1"},
        StageName.TRAIN: {
            "finetuningType": "Full",
            "zeroStage": 3,
            "globalBatchSize": 4 * 4 * 8,
            "lrSchedule": "Cosine",
            "learningRate": "0.00001",
            "numTrainEpochs": "2",
            "precision": "FP16",
        },
        StageName.REGISTER: {"quantizations": ["Q4_0"]},
    },
    "04-lora-identity": {
        StageName.TRAIN: {
            "finetuningType": "LoRA",
            "lora": {"rank": 8, "alpha": 32, "dropout": "0.05", "targetModules": ["AllLinear"]},
            "weightDecay": "0.05",
            "numTrainEpochs": "3",
        },
    },
    "06-preferences": {
        StageName.PREPARE: {"preferences": "Pairs", "validationFraction": "0.2"},
        StageName.TRAIN: {
            "method": "DPO",
            "preference": {"beta": "0.1", "sftWeight": "0.1"},
            "learningRate": "0.00002",
            "keepBest": True,
        },
    },
}


@pytest.mark.parametrize(
    ("example", "stage"), [(example, stage) for example, stages in ASKED_FOR.items() for stage in stages]
)
def test_an_example_asks_for_its_recipe(example: str, stage: StageName) -> None:
    """The examples that stand for a known recipe ask for exactly its numbers."""
    params = params_of(example, stage)
    wanted = ASKED_FOR[example][stage]
    assert {name: params[name] for name in wanted} == wanted


def test_the_full_example_runs_on_four_gpus() -> None:
    """Example 03 splits its batch as the recipe does: 4 GPUs, 4 rows at once, 8 passes."""
    training = job_of("03-full-zero3").spec.training
    assert (training.gpus_per_node, training.per_device_train_batch_size) == (4, 4)
    assert training.gradient_accumulation_steps == 8


def test_the_batch_of_the_full_example_can_be_split_otherwise() -> None:
    """Two GPUs with twice the passes make the same batch and have the same keys, as the README of example 03 says."""
    text = (FOLDERS["03-full-zero3"] / "finetunejob.yaml").read_text(encoding="utf-8")
    on_two = text.replace("gpusPerNode: 4", "gpusPerNode: 2").replace(
        "gradientAccumulationSteps: 8", "gradientAccumulationSteps: 16"
    )
    assert on_two != text
    assert carried_out(parse_job(on_two))[0].keys == carried_out(parse_job(text))[0].keys


def test_the_example_of_preferences_is_shown_and_wise() -> None:
    """Example 06 is shown in TensorBoard, which enters no key, and its settings fit the number of its rows."""
    job = job_of("06-preferences")
    train = carried_out(job)[0].stage(StageName.TRAIN)
    assert train.runtime["tracking"]["type"] == "TensorBoard"
    assert "tracking" not in train.units[0].params
    rows = len((FOLDERS["06-preferences"] / "data/answers.jsonl").read_text(encoding="utf-8").splitlines())
    epochs, trained = float(job.spec.training.num_train_epochs or 3), round(rows * 0.8)
    steps = math.ceil(trained / job.spec.training.global_batch_size) * epochs
    assert doubts(_estimated(job), int(steps)) == []


def test_the_identity_example_draws_3000_rows() -> None:
    """Example 04 mixes 3000 rows of the built-in set with rows of another kind."""
    identity, other = params_of("04-lora-identity", StageName.PREPARE)["datasets"]
    assert (identity["builtin"], identity["maxSamples"]) == (True, 3000)
    assert (other["builtin"], other["format"]) == (False, "Alpaca")


def test_the_template_of_the_identity_example_adds_nothing_of_its_own() -> None:
    """The template given in example 04 writes ChatML and no system message that nobody gave."""
    template = job_of("04-lora-identity").spec.model.chat_template
    assert template is not None
    # The settings are those of transformers' apply_chat_template.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": "user", "content": " Who are you?\n"}, {"role": "assistant", "content": "Tunny."}]
    assert template.jinja is not None
    rendered = environment.from_string(template.jinja).render(messages=messages, add_generation_prompt=True)
    assert rendered == (
        "<|im_start|>user\n Who are you?\n<|im_end|>\n<|im_start|>assistant\nTunny.<|im_end|>\n<|im_start|>assistant\n"
    )
