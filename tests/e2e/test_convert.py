"""`convert` and `quantize` with the real llama.cpp, on tiny models that are trained on the spot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support.tuned_model import Flavour, TunedModel
from tunesmith_stages import quantize
from tunesmith_stages.chat_template import guarded
from tunesmith_stages.contract import ExitCode, Failure, StageConfig, StageName, StageResult
from tunesmith_stages.convert.stage import make
from tunesmith_stages.gguf_file import FILE_TYPES, read_gguf
from tunesmith_stages.program import run

pytestmark = pytest.mark.e2e

Tensors = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> TunedModel:
    """bfloat16, Qwen2's way of splitting, NFC, no BOS."""
    return TunedModel(tmp_path_factory.mktemp("chatml"), Flavour(nfc=True))


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> TunedModel:
    """GPT-2's way of splitting; tokenizer and template both write BOS; turns end with a token that is not EOS."""
    flavour = Flavour(pattern=None, bos="<s>", end_of_turn="<|turn_end|>", eos="<|stop|>")
    return TunedModel(tmp_path_factory.mktemp("with_bos"), flavour)


def key_of(name: str) -> str:
    return name.encode().hex().ljust(64, "0")[:64]


def run_stage(config: StageConfig) -> StageResult:
    """Run the stage program as an edge does, and return its result."""
    path = Path(config.volume) / "stage.json"
    path.write_text(config.to_json())
    module = f"tunesmith_stages.{config.stage}"
    done = subprocess.run([sys.executable, "-m", module, "--config", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return StageResult.from_json((unit_folder(config) / "result.json").read_text())


def unit_folder(config: StageConfig) -> Path:
    return Path(config.volume) / "stages" / config.stage / config.units[0].key


def fail_stage(config: StageConfig) -> Failure:
    """Run the stage within this process and return why it failed."""
    assert run(config, make) != ExitCode.OK
    folder = unit_folder(config).with_name(f"{config.units[0].key}.{config.attempt}")
    assert not (folder / "out").exists()
    assert not (folder / "merged").exists()
    assert not unit_folder(config).exists()
    return Failure.from_json((folder / "failure.json").read_text())


def test_adapter_is_exported_as_it_was_trained(chatml: TunedModel) -> None:
    """A LoRA on a bfloat16 base comes out as a GGUF that says what training says, and each quantization of it too."""
    result = run_stage(chatml.convert(key_of("lora"), "lora"))
    gguf = read_gguf(chatml.root / result.path / "model.gguf")
    template = guarded(chatml.flavour.template)
    assert gguf.metadata["tokenizer.chat_template"].encode() == template.encode()
    assert gguf.metadata["general.file_type"] == FILE_TYPES["BF16"]
    assert result.outputs["preTokenizer"] == {"name": "qwen2", "foundBy": "splits"}
    assert result.outputs["contextLength"] == 512
    assert result.outputs["vocabSize"] == len(chatml.tokenizer)
    assert result.outputs["endOfTurnId"] == result.outputs["eosTokenId"] == gguf.metadata["tokenizer.ggml.eos_token_id"]
    assert result.outputs["textsNotCompared"]["count"] == 1
    assert result.numbers["mergedTensors"] == 3 * 7
    assert result.numbers["maxKl"] < 0.01
    folder = chatml.root / "stages" / "convert" / result.key
    assert not (folder / "merged").exists()
    assert len(json.loads((folder / "logs" / "reference_check.json").read_text())["probes"]) == len(chatml.prompts)

    for kind in ("BF16", "F16", "Q8_0", "Q4_K_M"):
        config = chatml.stage(StageName.QUANTIZE, key_of(kind), {"type": kind}, converted=result.path)
        made = run_stage(config)
        path = chatml.root / made.path / "model.gguf"
        assert read_gguf(path).metadata["general.file_type"] == FILE_TYPES[kind]
        assert read_gguf(path).metadata["tokenizer.chat_template"].encode() == template.encode()
        assert made.numbers["bytes"] == path.stat().st_size
        assert (path.stat().st_ino == gguf.path.stat().st_ino) is (kind == "BF16")
        assert bool(made.outputs["fallbackTensors"]) is (kind == "Q4_K_M")  # rows of 128 numbers do not fit
        assert made.numbers["bitsPerWeight"] == pytest.approx({"Q8_0": 8.6, "Q4_K_M": 6.0}.get(kind, 16.1), abs=0.6)


def test_full_weights_are_exported_as_they_were_trained(with_bos: TunedModel) -> None:
    """After a full fine-tuning the trained weights go out; serving gives no second BOS and stops at the turn's end."""
    result = run_stage(with_bos.convert(key_of("full"), "full", "F16"))
    gguf = read_gguf(with_bos.root / result.path / "model.gguf")
    assert result.outputs["preTokenizer"] == {"name": "gpt-2", "foundBy": "splits"}
    assert result.numbers["mergedTensors"] == 0
    assert result.numbers["maxKl"] < 0.01
    assert gguf.metadata["tokenizer.ggml.add_bos_token"] is False
    tokens = {name: with_bos.tokenizer.convert_tokens_to_ids(name) for name in ("<|turn_end|>", "<|stop|>")}
    assert gguf.metadata["tokenizer.ggml.eos_token_id"] == tokens["<|stop|>"]
    assert gguf.metadata["tokenizer.ggml.eot_token_id"] == tokens["<|turn_end|>"]


def test_two_runs_give_the_same_bytes(chatml: TunedModel) -> None:
    """What is made depends on the inputs alone: the digest is the same, whatever the folder is called."""
    first, second = (run_stage(chatml.convert(key_of(name), "lora")) for name in ("lora", "again"))
    assert first.digest == second.digest


def left_out(tensors: Tensors) -> Tensors:
    return {name: tensor * 0 for name, tensor in tensors.items()}


def without_a_layer(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if ".layers.1." not in name}


def transposed(tensors: Tensors) -> Tensors:
    """Add the transposed product in the square projections."""
    changed = dict(tensors)
    for name in tensors:
        if "lora_A" in name and ("q_proj" in name or "o_proj" in name):
            partner = name.replace("lora_A", "lora_B")
            changed[name], changed[partner] = tensors[partner].T, tensors[name].T
    return changed


WRONG: dict[str, tuple[int, Callable[[Tensors], Tensors]]] = {
    "alpha doubled": (32, dict),
    "adapter left out": (16, left_out),
    "a layer missing": (16, without_a_layer),
    "factors transposed": (16, transposed),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_merges_are_caught(chatml: TunedModel, name: str) -> None:
    """An adapter that is merged in another way than it was trained does not pass the comparison with training."""
    alpha, change = WRONG[name]
    folder = chatml.root / f"wrong {name}"
    shutil.copytree(chatml.root / "lora", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": alpha}))
    path = folder / "adapter_model.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in change(load_file(path)).items()}, path)
    failure = fail_stage(chatml.convert(key_of(name), folder.name))
    assert (failure.code, failure.reason) == (ExitCode.GATE_FAILED, "MergedModelDiffers")
    assert "probe" in failure.message


def edited(model: TunedModel, role: str, file: str, name: str, change: Callable[[Any], Any]) -> str:
    """Copy an input with one of its JSON files changed; return the copy's name."""
    folder = model.root / f"{role} {name}"
    shutil.copytree(model.root / role, folder)
    data = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(change(data), ensure_ascii=False), encoding="utf-8")
    return folder.name


def with_other_split(tokenizer: dict[str, Any]) -> dict[str, Any]:
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}{1,4}|\p{N}|."
    return tokenizer


def with_other_prompt(probes: dict[str, Any]) -> dict[str, Any]:
    probes["prompts"][3]["ids"][-1] += 1
    return probes


def with_ordinary_end(tokens: dict[str, Any]) -> dict[str, Any]:
    return {**tokens, "endOfTurn": {"id": 10, "text": "+"}}


def with_other_architecture(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "architectures": ["ParrotForCausalLM"]}


Change = Callable[[dict[str, Any]], dict[str, Any]]
REFUSED: dict[str, tuple[str, str, Change, ExitCode, str, str]] = {
    "architecture": (
        *("base", "config.json", with_other_architecture),
        *(ExitCode.BAD_CONFIG, "UnsupportedArchitecture", "ParrotForCausalLM"),
    ),
    "splitting": (
        *("base", "tokenizer.json", with_other_split),
        *(ExitCode.BAD_CONFIG, "PreTokenizerUnknown", "exactly one known family"),
    ),
    "prompt": (
        *("prepared", "probes.json", with_other_prompt),
        *(ExitCode.GATE_FAILED, "TokenizerMismatch", "Where is the harbour"),
    ),
    "end of turn": (
        *("prepared", "tokens.json", with_ordinary_end),
        *(ExitCode.GATE_FAILED, "EndOfTurnNotEog", "would not stop"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_refused(chatml: TunedModel, name: str) -> None:
    """Each thing that can't be exported faithfully is one clear failure, and nothing is left half-written."""
    role, file, change, code, reason, message = REFUSED[name]
    failure = fail_stage(chatml.convert(key_of(name), "lora", **{role: edited(chatml, role, file, name, change)}))
    assert (failure.code, failure.reason) == (code, reason)
    assert message in failure.message


def test_disk_that_cannot_hold_it_is_refused_first(chatml: TunedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed is compared with what is free before anything is written; both are named."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, 1 << 30, 1 << 20))
    failure = fail_stage(chatml.convert(key_of("disk"), "lora"))
    assert failure.code == ExitCode.NO_SPACE
    assert "0.00 GiB are free" in failure.message

    result = run_stage(chatml.convert(key_of("lora"), "lora"))
    config = chatml.stage(StageName.QUANTIZE, key_of("disk"), {"type": "Q8_0"}, converted=result.path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, 1 << 30, 1 << 10))
    assert run(config, quantize.make) == ExitCode.NO_SPACE


def test_nothing_is_left_running(chatml: TunedModel) -> None:
    """llama-server and the converter end with the stage."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not [command for command in commands if str(chatml.root).encode() in command]
