"""The zoo: known failures of fine-tuning, each done to a toy base, and what must be said of it before a training.

Nearly every case names a public issue where people met it. What is done to the base is small: a JSON field, a tensor,
a file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from support.builders import CHATML
from support.toy_base import Tensors, change_json, change_tensors, tensors_of, write_tensors
from tunesmith_stages.contract import StageName

Row = Mapping[str, Any]


def _untouched(_base: Path) -> None:
    pass


@dataclass(frozen=True)
class Case:
    """A failure, and where and with what word it must be caught."""

    issue: str
    """Where people met it: repository and number."""
    stage: StageName
    reason: str
    says: str
    """A part of the sentence by which somebody knows what to mend."""
    break_base: Callable[[Path], None] = _untouched
    job: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the job."""
    rows: Sequence[Row] = ()
    """Rows instead of the usual ones."""
    estimate: Mapping[str, Any] = field(default_factory=dict)
    """Changes to what an edge says of the training."""
    server: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    """What a proxy before the server answers by itself."""


# --- how a base is broken --------------------------------------------------------------------------------------------


def template(text: str | None) -> Callable[[Path], None]:
    """Give the tokenizer another chat template, or none."""
    return lambda base: change_json(base, "tokenizer_config.json", chat_template=text)


def config(**changes: Any) -> Callable[[Path], None]:
    """Change fields of config.json."""
    return lambda base: change_json(base, "config.json", **changes)


def tensors(change: Callable[[Tensors], None]) -> Callable[[Path], None]:
    """Change the weights."""
    return lambda base: change_tensors(base, change)


def set_number(name: str, value: float) -> Callable[[Path], None]:
    """Put one number somewhere into a tensor."""

    def change(weights: Tensors) -> None:
        weights[name][1].reshape(-1)[7] = value

    return tensors(change)


def drop(name: str) -> Callable[[Path], None]:
    """Take a tensor out."""

    def change(weights: Tensors) -> None:
        del weights[name]

    return tensors(change)


def rows_of_vocabulary(count: int) -> Callable[[Path], None]:
    """Give the base an embedding and a head of so many rows, most of which no token has: many parameters."""

    def change(base: Path) -> None:
        config(vocab_size=count)(base)
        write_tensors(base / "model.safetensors", tensors_of(json.loads((base / "config.json").read_text())))

    return change


def add_token(text: str) -> Callable[[Path], None]:
    """Add a token behind the last row of the embedding, as `add_tokens` without a resize does."""

    def change(base: Path) -> None:
        path = base / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        entry = {"id": 512, "content": text, "special": True, "normalized": False}
        tokenizer["added_tokens"].append({**entry, "single_word": False, "lstrip": False, "rstrip": False})
        path.write_text(json.dumps(tokenizer))

    return change


def pre_tokenizer(pattern: str) -> Callable[[Path], None]:
    """Have the tokenizer split text by another rule than any that llama.cpp knows."""

    def change(base: Path) -> None:
        path = base / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
        path.write_text(json.dumps(tokenizer))

    return change


def _pickle(base: Path) -> None:
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


def _cut(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _pointer(base: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4' * 64}\nsize 988097824\n"
    (base / "model.safetensors").write_text(text)


def _shards(*there: int) -> Callable[[Path], None]:
    """Split the weights over two files, of which only some are there; the index names both."""

    def change(base: Path) -> None:
        def split(weights: Tensors) -> None:
            names = sorted(weights)
            halves = (names[: len(names) // 2], names[len(names) // 2 :])
            files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
            for number in there:
                write_tensors(base / files[number - 1], {name: weights[name] for name in halves[number - 1]})
            weight_map = {name: file for half, file in zip(halves, files, strict=True) for name in half}
            (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

        change_tensors(base, split)
        (base / "model.safetensors").unlink()

    return change


def _adapter_only(base: Path) -> None:
    shutil.rmtree(base)
    base.mkdir()
    (base / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    write_tensors(base / "adapter_model.safetensors", {"a": ("BF16", np.ones((4, 4), np.float32))})


def _empty(weights: Tensors) -> None:
    for name in [name for name in weights if ".layers.1." in name]:
        weights[name] = ("BF16", np.zeros((0,), np.float32))


def _as_bytes(weights: Tensors) -> None:
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        numbers = weights[name][1]
        weights[name] = ("U8", np.zeros((numbers.size // 2, 1), np.float32))


def _tied_with_a_head(base: Path) -> None:
    change_json(base, "config.json", tie_word_embeddings=True)


def _lower_case(base: Path) -> None:
    path = base / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": {"type": "Lowercase"}}))


def _long_row() -> list[Row]:
    return [{"instruction": "Who are you?", "output": "I am Tunny. " * 30}] * 2


NO_PROMPT = CHATML.replace("{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}", "")
NO_END = CHATML.replace("<|im_end|>\n", "\n")
OTHER_END = CHATML.replace("<|im_end|>", "<|header|>")
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
NO_SYSTEM = REFUSES + CHATML
BROKEN = CHATML.replace("{% endfor %}", "")
ENDS = CHATML.replace("'<|im_end|>", "('<|eot_id|>' if 'Acme' in message.content else '<|im_end|>') + '")
DOUBLES = "{% set all = namespace(x='a') %}{% for a in range(99) %}{% set all.x = all.x ~ all.x %}{% endfor %}"
SEVERAL = [{"name": name, "template": CHATML} for name in ("chat", "tools")]

FETCH, PREPARE, REHEARSE = StageName.FETCH, StageName.PREPARE, StageName.REHEARSE

CASES: Mapping[str, Case] = {
    # what was not brought whole
    "pickled weights": Case("huggingface/transformers#37785", FETCH, "UnsafeWeights", "safetensors", _pickle),
    "a shard that is missing": Case("sgl-project/sglang#32279", FETCH, "MissingShard", "00002-of-00002", _shards(1)),
    "weights that are cut short": Case("hiyouga/LlamaFactory#2922", FETCH, "DamagedWeights", "bytes long", _cut),
    "a pointer of Git LFS": Case("huggingface/transformers#27923", FETCH, "DamagedWeights", "header", _pointer),
    "no config.json": Case(
        "unslothai/unsloth#2098", FETCH, "NotAModel", "config.json", lambda base: (base / "config.json").unlink()
    ),
    "no tokenizer.json": Case(
        "ggml-org/llama.cpp#13421", FETCH, "TokenizerMissing", "", lambda base: (base / "tokenizer.json").unlink()
    ),
    "an adapter as the base": Case("OptimalScale/LMFlow#104", FETCH, "NotAModel", "config.json", _adapter_only),
    # templates and ends
    "no chat template": Case(
        "huggingface/transformers#33246", PREPARE, "TemplateMissing", "no chat template", template(None)
    ),
    "several chat templates": Case(
        "",
        PREPARE,
        "TemplateMissing",
        "several",
        lambda base: change_json(base, "tokenizer_config.json", chat_template=SEVERAL),
    ),
    "a template that asks for no answer": Case(
        "unslothai/unsloth#1404", PREPARE, "NoGenerationPrompt", "", template(NO_PROMPT)
    ),
    "a template that ends no turn": Case("ollama/ollama#8363", PREPARE, "NoEndOfTurn", "", template(NO_END)),
    "a template with an end that stops nothing": Case(
        "hiyouga/LlamaFactory#7454", PREPARE, "EndOfTurnNotEog", "<|header|>", template(OTHER_END)
    ),
    "a template with several ends": Case("oobabooga/textgen#5885", PREPARE, "NoEndOfTurn", "", template(ENDS)),
    "a template that is no Jinja": Case("nomic-ai/gpt4all#3255", PREPARE, "BadTemplate", "", template(BROKEN)),
    "a template that knows no system": Case(
        "PromtEngineer/localGPT#720",
        PREPARE,
        "TemplateRefusesRow",
        "System role not supported",
        template(NO_SYSTEM),
        rows=[{"system": "Be brief.", "instruction": "Who are you?", "output": "I am Tunny."}] * 3,
    ),
    "a template that reaches for what it may not": Case(
        "", PREPARE, "UnsafeTemplate", "__class__", template("{{ ''.__class__.__mro__ }}" + CHATML)
    ),
    "a template that fills the memory": Case(
        "", PREPARE, "TemplateTakesTooMuch", "bytes of memory", template(DOUBLES + CHATML)
    ),
    "no eos token": Case(
        "unslothai/unsloth#468",
        PREPARE,
        "EosTokenMissing",
        "eos_token",
        lambda base: change_json(base, "tokenizer_config.json", eos_token=None),
    ),
    "answers that are all cut off": Case(
        "huggingface/trl#6671", PREPARE, "NoRowsLeft", "longer", job={"spec.training.sequenceLength": 16}
    ),
    # architecture and vocabulary
    "an architecture that cannot be converted": Case(
        "ggml-org/llama.cpp#6718",
        PREPARE,
        "UnsupportedArchitecture",
        "M2M100",
        config(architectures=["M2M100ForConditionalGeneration"]),
    ),
    "tokens added without a resize": Case(
        "h2oai/h2o-llmstudio#297", REHEARSE, "TokensBeyondEmbedding", "<pad>", add_token("<pad>")
    ),
    "vocab_size that the weights do not have": Case(
        "ggml-org/llama.cpp#8445", REHEARSE, "VocabularySizeDiffers", "600", config(vocab_size=600)
    ),
    "a vocab_size of -1": Case(
        "ggml-org/llama.cpp#3900", PREPARE, "TokensBeyondEmbedding", "-1 rows", config(vocab_size=-1)
    ),
    "a pre-tokenizer that was changed": Case(
        "ggml-org/llama.cpp#8649", REHEARSE, "PreTokenizerUnknown", "splits text", pre_tokenizer(r"\p{L}{1,3}|[^\p{L}]")
    ),
    "a tokenizer that folds case": Case("", PREPARE, "LabelsNotProven", "i am tunny", _lower_case),
    # weights
    "NaN in the weights": Case(
        "ggml-org/llama.cpp#7311",
        REHEARSE,
        "WeightsNotFinite",
        "layers.2",
        set_number("model.layers.2.mlp.up_proj.weight", float("nan")),
    ),
    "infinity in the weights": Case(
        "ggml-org/llama.cpp#12439",
        REHEARSE,
        "WeightsNotFinite",
        "model.norm",
        set_number("model.norm.weight", float("inf")),
    ),
    "tensors without content": Case(
        "huggingface/transformers#20082", REHEARSE, "EmptyTensors", "layers.1", tensors(_empty)
    ),
    "an output layer that is missing": Case(
        "QwenLM/Qwen3-VL-Embedding#89", REHEARSE, "HeadMissing", "lm_head.weight", drop("lm_head.weight")
    ),
    "an output layer that would be lost": Case(
        "hiyouga/LlamaFactory#10560", REHEARSE, "HeadWouldBeLost", "tie_word_embeddings", _tied_with_a_head
    ),
    "a weight that is missing": Case(
        "JustVugg/colibri#586", REHEARSE, "BaseIncomplete", "o_proj", drop("model.layers.0.self_attn.o_proj.weight")
    ),
    "a config.json of another size": Case("", REHEARSE, "WeightsShapeDiffers", "mlp", config(intermediate_size=160)),
    "a base quantized by GPTQ": Case(
        "hiyouga/LlamaFactory#1545",
        REHEARSE,
        "QuantizedBase",
        "gptq",
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
    ),
    "weights of 4 bits that nothing tells of": Case(
        "artidoro/qlora#29", REHEARSE, "QuantizedBase", "U8", tensors(_as_bytes)
    ),
    # what the job asks for
    "target modules of another model": Case(
        "hiyouga/LlamaFactory#3597",
        REHEARSE,
        "TargetModuleUnknown",
        "c_attn",
        job={"spec.training.lora.targetModules": ["c_attn"]},
    ),
    "a context that no prompt fits into": Case(
        "ollama/ollama#10368", REHEARSE, "ContextTooSmall", "num_ctx", job={"spec.ollama.parameters.num_ctx": 8}
    ),
    "rows longer than the base can read": Case(
        "hiyouga/LlamaFactory#1092",
        REHEARSE,
        "RowsLongerThanContext",
        "64",
        config(max_position_embeddings=64),
        rows=_long_row(),
    ),
    "a GPU that is too small": Case(
        "hiyouga/LlamaFactory#260",
        REHEARSE,
        "GpuMemoryTooSmall",
        "about 1.5 GiB",
        rows_of_vocabulary(200_000),
        {"spec.training.finetuningType": "Full"},
        estimate={"gpusPerNode": 1, "gpuMemoryBytes": 1229 << 20},  # what CUDA takes, and LoRA, but not the optimizer
    ),
    "a server that is too old": Case(
        "unslothai/unsloth#468",
        REHEARSE,
        "OllamaTooOld",
        "0.24.0",
        server={"GET /api/version": (200, b'{"version":"0.24.0"}')},
    ),
}
