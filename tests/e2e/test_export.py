"""What a job can ask of its export, with the real llama.cpp: types, importance matrix, vocabularies, kept weights."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.bigram_model import ANSWER, CHATML, write_gguf
from support.ollama_server import OllamaServer
from support.prepared import write_rows
from support.tuned_model import AFTER, Flavour, TunedModel
from tunesmith_stages.chat_template import guarded
from tunesmith_stages.contract import (
    ExitCode,
    Failure,
    Input,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
    content_key,
    digest_of,
)
from tunesmith_stages.gguf_file import FILE_TYPES, TEMPLATE, read_gguf
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_refusal import RefusalError
from tunesmith_stages.quantization_types import NAMES, NEEDS_IMATRIX, NOT_SERVED
from tunesmith_stages.tools import llama_cpp
from tunesmith_stages.volume import Volume, manifest_of, sha256_of

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> TunedModel:
    """Rows of 256 and 512 numbers, so that every type fits; and rows of training data."""
    model = TunedModel(tmp_path_factory.mktemp("wide"), Flavour(width=256))
    conversations = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in AFTER
    ]
    texts = [str(model.tokenizer.apply_chat_template(messages, tokenize=False)) for messages in conversations]
    rows = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    write_rows(model.root / "prepared" / "train.arrow", [(ids, ids) for ids in rows])
    return model


def run_stage(stage: StageName, root: Path, *units: UnitConfig, **runtime: Any) -> ExitCode:
    config = StageConfig(stage, "job", str(root), "1", units, runtime)
    path = root / f"{stage}.json"
    path.write_text(config.to_json())
    argv: list[str | Path] = [sys.executable, "-m", f"tunesmith_stages.{stage}", "--config", path]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode in set(ExitCode), done.stderr
    return ExitCode(done.returncode)


def unit(stage: StageName, params: dict[str, Any], inputs: dict[str, Input], name: str = "") -> UnitConfig:
    return UnitConfig(name or str(stage), content_key(stage, params, inputs), params, inputs)


def result(root: Path, stage: StageName, made: UnitConfig) -> StageResult:
    found = Volume(root).result(stage, made.key)
    assert found is not None
    return found


def failure(root: Path, stage: StageName, made: UnitConfig) -> Failure:
    return Failure.from_json((Volume(root).attempt(stage, made.key, "1") / "failure.json").read_text())


def place(folder: str) -> Input:
    return Input(folder, digest_of(folder))


def converted(model: TunedModel, trained: str = "lora", base: str = "base", **params: Any) -> StageResult:
    """Convert a training's result; a second time it is there."""
    inputs = {"base": place(base), "prepared": place("prepared"), "trained": place(trained)}
    wanted = unit(StageName.CONVERT, {"outType": "BF16", **params}, inputs)
    config = StageConfig(StageName.CONVERT, "job", str(model.root), "1", (wanted,))
    path = model.root / "convert.json"
    path.write_text(config.to_json())
    argv: list[str | Path] = [sys.executable, "-m", "tunesmith_stages.convert", "--config", path]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return result(model.root, StageName.CONVERT, wanted)


# --- types and importance matrix -------------------------------------------------------------------------------------


def test_every_type_of_llama_quantize_has_its_name() -> None:
    """The table holds each name that the pinned llama-quantize offers, with its number, and no other."""
    told = subprocess.run([llama_cpp().quantize, "--help"], capture_output=True, text=True, check=False).stdout
    offered = {name: int(number) for number, name in re.findall(r"^ *(\d+)  or  (\S+) *:", told, re.MULTILINE)}
    assert offered == FILE_TYPES


def test_every_type_is_made(wide: TunedModel) -> None:
    """Each type comes out as itself; the importance matrix is computed once for all that use it, always the same."""
    source = converted(wide).as_input()
    both = {"converted": source, "base": place("base"), "prepared": place("prepared")}
    names = [name for name in NAMES if name not in NOT_SERVED | {"MXFP4_MOE"}]
    units = {
        name: unit(
            StageName.QUANTIZE,
            {"type": name, **({"imatrix": True} if name in NEEDS_IMATRIX else {})},
            both if name in NEEDS_IMATRIX else {"converted": source},
            name,
        )
        for name in names
    }
    assert run_stage(StageName.QUANTIZE, wide.root, *units.values()) is ExitCode.OK
    results = {name: result(wide.root, StageName.QUANTIZE, made) for name, made in units.items()}
    for name, made in results.items():
        gguf = read_gguf(wide.root / made.path / "model.gguf")
        assert gguf.metadata["general.file_type"] == FILE_TYPES[name]
        assert made.outputs["fallbackTensors"] == {}
        assert ("imatrix" in made.outputs) is (name in NEEDS_IMATRIX)
    assert results["IQ1_S"].numbers["bytes"] < results["IQ3_XXS"].numbers["bytes"] < results["Q6_K"].numbers["bytes"]
    matrices = list((wide.root / "stages" / "quantize").glob("*.imatrix"))
    assert len(matrices) == 1
    said = results["IQ2_XXS"].outputs["imatrix"]
    assert said["samples"] == len(AFTER)
    assert said["chunks"] >= 2
    written = read_gguf(wide.root / results["IQ2_XXS"].path / "model.gguf").metadata
    assert (written["quantize.imatrix.file"], written["quantize.imatrix.dataset"]) == ("imatrix.gguf", "samples.txt")

    digest = sha256_of(matrices[0] / "imatrix.gguf")
    (matrices[0] / "imatrix.gguf").write_bytes(b"something else")
    again = unit(StageName.QUANTIZE, {"type": "Q4_0", "imatrix": True}, both)
    assert run_stage(StageName.QUANTIZE, wide.root, again) is ExitCode.OK
    assert sha256_of(matrices[0] / "imatrix.gguf") == digest


@pytest.mark.nightly
def test_ollama_takes_every_type_that_a_job_can_have(tmp_path: Path, newest_ollama: OllamaServer) -> None:
    """Ollama takes and runs a file of each type; those that the table calls not served, it refuses."""
    write_gguf(tmp_path / "model.gguf", template=guarded(CHATML))
    (tmp_path / "text.txt").write_text("Who are you? I am Tunny, a helper of Acme.\n" * 30)
    llama = llama_cpp()
    sizes = [word for name in ("ctx", "batch", "ubatch") for word in (f"--{name}-size", "64")]
    measure: list[str | Path] = [
        llama.imatrix,
        "--model",
        "model.gguf",
        "--file",
        "text.txt",
        "--output-file",
        "i.gguf",
        *sizes,
    ]
    subprocess.run([*measure, "--device", "none"], cwd=tmp_path, check=True, capture_output=True)
    refused = set()
    with Ollama(newest_ollama.url) as server:
        for name in NAMES:
            options = ["--imatrix", "i.gguf"] if name in NEEDS_IMATRIX else []
            make: list[str | Path] = [llama.quantize, *options, "model.gguf", "made.gguf", name]
            subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
            digest = sha256_of(tmp_path / "made.gguf")
            server.upload(digest, tmp_path / "made.gguf", lambda _bytes: None)
            try:
                server.create("typed:v1", {"files": {"model.gguf": f"sha256:{digest}"}, "parameters": {"num_ctx": 64}})
            except RefusalError:
                refused.add(name)
                continue
            assert server.chat("typed:v1", [{"role": "user", "content": "Hi"}], limit=2).prompt_tokens > 0
            server.delete("typed:v1")
    assert refused == NOT_SERVED


REFUSED = {
    "no matrix": ("IQ2_XXS", "ImatrixNeeded"),
    "no experts": ("MXFP4_MOE", "QuantizationDoesNotFit"),
    "no such type": ("Q4_K_XXL", "UnknownQuantization"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_types_that_make_no_sense_are_refused(wide: TunedModel, name: str) -> None:
    """A type that would fail after its time, or be another one than it says, is refused first."""
    kind, reason = REFUSED[name]
    made = unit(StageName.QUANTIZE, {"type": kind}, {"converted": converted(wide).as_input()})
    assert run_stage(StageName.QUANTIZE, wide.root, made) is ExitCode.BAD_CONFIG
    assert failure(wide.root, StageName.QUANTIZE, made).reason == reason


# --- what convert makes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out_type", "bits"), [("F32", 32), ("Q8_0", 8.5)])
def test_out_types(wide: TunedModel, out_type: str, bits: float) -> None:
    """A model is converted to the type asked for, and passes the comparison with training in it."""
    made = converted(wide, outType=out_type)
    assert read_gguf(wide.root / made.path / "model.gguf").metadata["general.file_type"] == FILE_TYPES[out_type]
    assert read_gguf(wide.root / made.path / "model.gguf").bits_per_weight == pytest.approx(bits, abs=0.2)
    assert made.numbers["maxKl"] < 0.02
    unit_of = {
        kind: unit(StageName.QUANTIZE, {"type": kind}, {"converted": made.as_input()}) for kind in ("Q4_0", "F16")
    }
    assert run_stage(StageName.QUANTIZE, wide.root, unit_of["Q4_0"]) is ExitCode.OK
    again = result(wide.root, StageName.QUANTIZE, unit_of["Q4_0"]).outputs.get("requantizedFrom")
    assert again == ("Q8_0" if out_type == "Q8_0" else None)
    code = run_stage(StageName.QUANTIZE, wide.root, unit_of["F16"])
    assert code is (ExitCode.BAD_CONFIG if out_type == "Q8_0" else ExitCode.OK)
    if out_type == "Q8_0":
        assert failure(wide.root, StageName.QUANTIZE, unit_of["F16"]).reason == "AlreadyQuantized"


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_kept_model_is_the_tuned_one(wide: TunedModel, trained: str) -> None:
    """`keepMerged` leaves a folder that transformers loads as it lies, and that expects what training left expects."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = converted(wide, trained, keepMerged=True)
    folder = wide.root / made.path / "merged"
    assert {entry.path for entry in made.files} > {"model.gguf", "merged/config.json", "merged/generation_config.json"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    reference = json.loads((wide.root / trained / "reference.json").read_text())["prompts"]
    for prompt, expected in zip(wide.prompts, reference, strict=True):
        text = tokenizer.apply_chat_template(prompt["messages"], tokenize=False, add_generation_prompt=True)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected["ids"]
        with torch.no_grad():
            found = model(torch.tensor([expected["ids"]])).logits[0, -1].float().log_softmax(-1)
        for token, logprob in expected["top"][:5]:
            assert float(found[token]) == pytest.approx(logprob, abs=0.1)
    assert converted(wide, trained).outputs["keepsMerged"] is False
    assert not (wide.root / converted(wide, trained).path / "merged").exists()


# --- vocabularies ----------------------------------------------------------------------------------------------------


def test_pieces_without_their_file_are_read_from_tokenizer_json(tmp_path: Path) -> None:
    """A SentencePiece tokenizer that has no tokenizer.model any more is exported with the same tokens."""
    model = TunedModel(tmp_path, Flavour(pieces=True))
    made = converted(model)
    gguf = read_gguf(tmp_path / made.path / "model.gguf")
    assert gguf.metadata["tokenizer.ggml.model"] == "llama"
    assert gguf.metadata["tokenizer.ggml.add_space_prefix"] is False
    assert made.outputs["path"].endswith("vocabulary of tokenizer.json")
    assert made.outputs["pathReason"] == "the base has no tokenizer.model"


def test_vocabulary_that_does_not_fit_gives_way(wide: TunedModel) -> None:
    """Where tokenizer.model can't be read, or is of another vocabulary, tokenizer.json is taken; the reason is told."""
    base = wide.root / "base with another tokenizer.model"
    shutil.copytree(wide.root / "base", base)
    (base / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")  # of tiktoken, as Llama 3 comes with
    made = converted(wide, base=base.name)
    assert made.outputs["path"].endswith("vocabulary of tokenizer.json")
    assert "tokenizer.model" in made.outputs["pathReason"]
    plain = converted(wide)
    assert plain.outputs["pathReason"] == "the base has no tokenizer.model"
    assert made.digest == plain.digest


# --- a GGUF as the base ----------------------------------------------------------------------------------------------


@pytest.fixture
def gguf_base(tmp_path: Path) -> Input:
    """A model of 16 bits in the store, with a template that Ollama would replace by one of its own."""
    making = tmp_path / "making"
    making.mkdir()
    write_gguf(making / "model.gguf", template=CHATML)
    digest = "d" * 64
    folder = Volume(tmp_path).store("models", digest)
    folder.parent.mkdir(parents=True)
    making.rename(folder)
    files = [{"path": entry.path, "size": entry.size, "sha256": entry.sha256} for entry in manifest_of(folder)]
    Volume(tmp_path).store_manifest("models", digest).write_text(json.dumps({"files": files}))
    return Input(folder.relative_to(tmp_path).as_posix(), digest)


def test_gguf_is_quantized_and_registered(tmp_path: Path, gguf_base: Input, newest_ollama: OllamaServer) -> None:
    """A base that is a GGUF goes live without any training, proven against itself; none is quantized twice."""
    units = {kind: unit(StageName.QUANTIZE, {"type": kind}, {"base": gguf_base}, kind) for kind in ("F16", "Q8_0")}
    assert run_stage(StageName.QUANTIZE, tmp_path, *units.values()) is ExitCode.OK
    made = {kind: result(tmp_path, StageName.QUANTIZE, each) for kind, each in units.items()}
    original = read_gguf(tmp_path / gguf_base.path / "model.gguf")
    for kind, each in made.items():
        gguf = read_gguf(tmp_path / each.path / "model.gguf")
        assert gguf.metadata[TEMPLATE] == guarded(CHATML)
        assert gguf.metadata["general.file_type"] == FILE_TYPES[kind]
        assert {tensor.name for tensor in gguf.tensors} == {tensor.name for tensor in original.tensors}

    params: dict[str, Any] = {
        "server": "main",
        "model": "from-gguf:v1",
        "parameters": {},
        "system": None,
        "license": None,
        "quantizations": ["F16", "Q8_0"],
    }
    inputs = {"base": gguf_base, **{f"quantized:{kind}": each.as_input() for kind, each in made.items()}}
    registration = unit(StageName.REGISTER, params, inputs)
    runtime = {
        "method": "API",
        "servers": {"main": {"url": newest_ollama.url, "caBundle": "", "exec": None}},
        "smokeTests": [{"prompt": "Who are you?", "expect": ANSWER}],
    }
    code = run_stage(StageName.REGISTER, tmp_path, registration, **runtime)
    assert code is ExitCode.OK, failure(tmp_path, StageName.REGISTER, registration)
    proof = result(tmp_path, StageName.REGISTER, registration).outputs["proof"]
    assert {kind: set(found) for kind, found in proof.items()} == {
        kind: {
            "template_is_ours",
            "loads",
            "renders_equally",
            "counts_tokens_equally",
            "stops",
            "passes_smoke_tests",
        }
        for kind in ("F16", "Q8_0")
    }
    logs = Volume(tmp_path).unit(StageName.REGISTER, registration.key) / "logs"
    said = json.loads((logs / "answers.json").read_text())
    assert {(each["quantization"], each["after"]) for each in said} == {("F16", ANSWER), ("Q8_0", ANSWER)}

    once_more = unit(
        StageName.QUANTIZE, {"type": "Q4_0"}, {"base": Input(made["Q8_0"].path, made["Q8_0"].digest)}, "once more"
    )
    assert run_stage(StageName.QUANTIZE, tmp_path, once_more) is ExitCode.BAD_CONFIG
    assert failure(tmp_path, StageName.QUANTIZE, once_more).reason == "AlreadyQuantized"
