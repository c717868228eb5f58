"""The twin: which architectures it goes the way of, when it need not go again, and when it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from preflight.chain import ROWS, End, run_until_training
from support.builders import write_tokenizer
from support.ollama_server import OllamaServer, ollama_programs, ollama_server
from support.toy_base import change_json, write_toy_base
from tunesmith_stages.contract import StageName
from tunesmith_stages.rehearse import twin

pytestmark = pytest.mark.e2e

SIZES: Mapping[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
LATENT = {"num_key_value_heads": 8, "kv_lora_rank": 64, "q_lora_rank": 64, "qk_rope_head_dim": 32}
LATENT |= {"qk_nope_head_dim": 32, "v_head_dim": 64}
ROUTED = {"num_experts_per_tok": 2, "moe_intermediate_size": 256}
MORE: Mapping[str, Mapping[str, Any]] = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": {**ROUTED, "num_experts": 8, "head_dim": 64, "norm_topk_prob": True},
    "qwen2_moe": {**ROUTED, "num_experts": 8, "shared_expert_intermediate_size": 256},
    "deepseek_v2": {**LATENT, **ROUTED, "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "hunyuan_v1_dense": {"head_dim": 64, "eod_token_id": 1},
}
TRANSPOSED: Mapping[str, Any] = {"n_ctx": 512}
"""The same of GPT-2, whose layers hold their weights the other way round."""
"""What an architecture's configuration has besides."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A running server of the newest pinned version."""
    with ollama_server(ollama_programs()[-1], tmp_path_factory.mktemp("ollama") / "models") as running:
        yield running


def volume(root: Path) -> Path:
    """Lay out a volume with data, and return the folder of the base that it is to have."""
    (root / "data").mkdir()
    (root / "data" / "faq.json").write_text(json.dumps(ROWS))
    (root / "data" / "more.json").write_text(json.dumps([{**row, "instruction": "And now?"} for row in ROWS]))
    return root / "models" / "base"


def write_base(folder: Path, kind: str) -> None:
    """Write a toy base of an architecture, with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **MORE.get(kind, TRANSPOSED)})
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder)


def found(end: End, name: str) -> str:
    """Return what a check found, or why it was not made."""
    return next(str(check["sentence"]) for check in end.report["checks"] if check["name"] == name)


@pytest.mark.parametrize("kind", MORE)
def test_adapter_of_all_linear_modules_gets_out(tmp_path: Path, server: OllamaServer, kind: str) -> None:
    """A small model of the architecture is trained with `AllLinear`, merged, converted, and served as it is."""
    write_base(volume(tmp_path), kind)
    end = run_until_training(tmp_path, server.url, {}, {})
    assert (end.stage, end.failure) == (StageName.TRAIN, None)
    assert "hidden_size 256" in found(end, "step of training")
    assert "the adapter merged into the base" in found(end, "convert")
    assert server.digests() == {}
    (stored,) = (folder for folder in (tmp_path / "store" / "models").iterdir() if folder.is_dir())
    assert {"config.json", "generation_config.json"} <= {path.name for path in stored.iterdir()}
    for path in stored.iterdir():
        assert path.read_bytes() == (tmp_path / "models" / "base" / path.name).read_bytes(), path.name


def test_dora_of_transposed_layers_is_refused_before_training(tmp_path: Path, server: OllamaServer) -> None:
    """The twin has the adapter that the job asks for: one that `convert` cannot merge costs no training."""
    write_base(volume(tmp_path), "gpt2")
    end = run_until_training(tmp_path, server.url, {"spec.training.lora": {"useDora": True}}, {})
    assert end.stage is StageName.REHEARSE
    assert end.failure is not None
    assert "DoRA of transposed layers" in end.failure.message


def test_what_is_unwise_is_said_and_trained(tmp_path: Path, server: OllamaServer) -> None:
    """A warm-up beyond the last step, which only the data tell of, is in the report, and the job goes on."""
    write_toy_base(volume(tmp_path))
    end = run_until_training(tmp_path, server.url, {"spec.training.warmupSteps": 100}, {})
    assert (end.stage, end.failure) == (StageName.TRAIN, None)
    said = "`warmupSteps` is 100, and the training has 3 steps"
    assert found(end, "settings to think about again").startswith(said)


OTHER_JOBS: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "another learning rate": ({"spec.training.learningRate": "3e-4"}, True, True),
    "other data": ({"spec.datasets.0.volume.path": "data/more.json"}, True, False),
    "another system text": ({"spec.ollama.system": "Be brief."}, True, False),
    "another type": ({"spec.export.quantizations": ["Q8_0"]}, False, False),
}


def test_what_has_passed_is_not_done_again(tmp_path: Path, server: OllamaServer) -> None:
    """Another job with this base needs no twin as long as it goes the same way; the weights are read once."""
    write_toy_base(volume(tmp_path))
    first = run_until_training(tmp_path, server.url, {}, {})
    assert "passed before" not in json.dumps(first.report)
    for job, (changes, whole, served) in OTHER_JOBS.items():
        end = run_until_training(tmp_path, server.url, changes, {})
        assert (end.stage, end.failure) == (StageName.TRAIN, None), job
        repeated = {check["name"] for check in end.report["checks"] if "passed before" in check["sentence"]}
        assert "numbers of the weights" in repeated, job
        assert ("convert" in repeated) == (whole and served), job
        assert ("register on main" in repeated) == served, job
        assert not repeated & {"rights on main", "length of the rows", "space on the volume"}, job
        assert [check["name"] for check in end.report["checks"]] == [check["name"] for check in first.report["checks"]]
    assert server.digests() == {}


def test_failure_is_not_remembered(tmp_path: Path, server: OllamaServer) -> None:
    """What has not passed is tried again, in full; what passed before it is remembered."""
    change_json(write_toy_base(volume(tmp_path)), "config.json", tie_word_embeddings=True)
    for _ in range(2):
        end = run_until_training(tmp_path, server.url, {}, {})
        assert end.failure is not None
        assert end.failure.reason == "HeadWouldBeLost"
        records = [json.loads(path.read_text()) for path in tmp_path.glob("stages/rehearse/*.passed.json")]
        assert [check["name"] for record in records for check in record["checks"]] == ["numbers of the weights"]


def test_architecture_without_a_small_model(
    tmp_path: Path, server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that cannot be made stands in the report with its reason and is no failure; the next job tries again."""
    monkeypatch.setattr(twin, "LARGEST", 1000)
    write_toy_base(volume(tmp_path))
    for _ in range(2):
        end = run_until_training(tmp_path, server.url, {}, {})
        assert (end.stage, end.failure) == (StageName.TRAIN, None)
        (left,) = (check for check in end.report["checks"] if check["passed"] is not True)
        assert left["passed"] is None
        assert "it would have" in left["sentence"]
        assert left is end.report["checks"][-1]
