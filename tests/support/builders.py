"""Small builders: a job, its results, a stage's work on a volume, and a base model with a tokenizer of its own."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.core.model import Plan
from tunesmith.core.plan import plan
from tunesmith_stages.contract import (
    RECIPES,
    FileEntry,
    Input,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
    content_key,
    digest_of,
)
from tunesmith_stages.program import Progress, Work
from tunesmith_stages.volume import Volume

# --- jobs ------------------------------------------------------------------------------------------------------------

REMOVED = object()
"""As the value of a change: the field is taken out."""

_JOB: Mapping[str, Any] = {
    "apiVersion": "tunesmith.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "support-bot"},
    "spec": {
        "model": {"volume": {"path": "models/base"}},
        "datasets": [{"name": "faq", "volume": {"path": "data/faq.json"}}],
        "training": {"gpusPerNode": 0},
        "ollama": {"model": "support-bot:v1"},
    },
}


def job_data(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a small job as plain data; a change is a dotted path and its value.

    ``spec.datasets.0.name`` is the first dataset's name, ``spec.datasets.+`` one dataset more.
    """
    data: dict[str, Any] = copy.deepcopy(dict(_JOB))
    for path, value in (changes or {}).items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place: Any = data
        for part in parents:
            place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
        if value is REMOVED:
            del place[last]
        elif last == "+":
            place.append(value)
        else:
            place[last] = value
    return data


def job_text(changes: Mapping[str, Any] | None = None) -> str:
    """Return the same as YAML."""
    return yaml.safe_dump(job_data(changes), sort_keys=False, allow_unicode=True)


def job(changes: Mapping[str, Any] | None = None) -> FineTuneJob:
    """Return the same as the API's model."""
    return FineTuneJob.model_validate(job_data(changes))


# --- results ---------------------------------------------------------------------------------------------------------


def result_of(stage: StageName, unit: UnitConfig) -> StageResult:
    """Return a result whose digest depends on the unit's key alone, as that of a deterministic stage does."""
    return StageResult(stage, unit.name, unit.key, RECIPES[stage], digest_of([unit.key]), f"made/{unit.key}", ())


def carried_out(
    job: FineTuneJob,
    until: StageName = StageName.REGISTER,
    results: Mapping[str, StageResult] | None = None,
    **more: Any,
) -> tuple[Plan, dict[str, StageResult]]:
    """Return the plan and the results after every stage up to `until` made what was missing."""
    made = dict(results or {})
    while True:
        current = plan(job, made, rehearsed=True, **more)
        stage = current.next
        if stage is None or list(StageName).index(stage.name) > list(StageName).index(until):
            return current, made
        made.update({unit.key: result_of(stage.name, unit) for unit in stage.missing})


# --- a stage's work --------------------------------------------------------------------------------------------------


def stage_config(
    root: Path,
    stage: StageName,
    *,
    params: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Input] | None = None,
    unit: str = "",
    attempt: str = "1",
    runtime: Mapping[str, Any] | None = None,
) -> StageConfig:
    """Return the ``stage.json`` of one unit, with its real key."""
    key = content_key(stage, params or {}, inputs or {})
    made = UnitConfig(unit or str(stage), key, params or {}, inputs or {})
    return StageConfig(stage, "support-bot", str(root), attempt, (made,), runtime or {})


def work_of(config: StageConfig) -> Work:
    """Return the work of a config's only unit, its folders made, for a stage function that is called by itself."""
    volume = Volume(Path(config.volume))
    (unit,) = config.units
    folder = volume.attempt(config.stage, unit.key, config.attempt)
    for name in ("out", "logs"):
        (folder / name).mkdir(parents=True)
    return Work(config, unit, volume, folder, Progress(config.stage, unit.name, folder))


def result_on(
    volume: Volume, stage: StageName, key: str, files: Mapping[str, str] | None = None, unit: str = ""
) -> StageResult:
    """Write a finished unit with these files to a volume; digests are not looked at by anybody here."""
    folder = volume.unit(stage, key)
    (folder / "out").mkdir(parents=True)
    entries = []
    for name, text in (files or {}).items():
        (folder / "out" / name).write_text(text)
        entries.append(FileEntry(name, len(text.encode()), "0" * 64))
    result = StageResult(
        stage, unit or str(stage), key, RECIPES[stage], digest_of([key]), volume.relative(folder / "out"), (*entries,)
    )
    (folder / "result.json").write_text(result.to_json())
    return result


# --- a base model ----------------------------------------------------------------------------------------------------

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|header|>", "<|/header|>", "<|eot_id|>")
_CORPUS = ("user\n", "assistant\n", "system\n", "What is it? It is a shop in Lyon.", "I am Tunny, made by Acme.") * 4


def write_tokenizer(
    folder: Path,
    *,
    template: str | None = CHATML,
    eos: str | None = "<|im_end|>",
    bos: str | None = None,
    trims_offsets: bool = False,
) -> None:
    """Write a byte-level BPE tokenizer of a few hundred tokens.

    With `bos` it writes that token before every text; with `trims_offsets` a token's offsets leave out its leading
    blanks, as those of Llama 3 do.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in CONTROL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    byte_level = processors.ByteLevel(trim_offsets=trims_offsets)
    if bos is None:
        tokenizer.post_processor = byte_level
    else:
        front = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        tokenizer.post_processor = processors.Sequence([byte_level, front])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    given = {"eos_token": eos, "bos_token": bos, "chat_template": template}
    settings |= {name: value for name, value in given.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_safetensors(path: Path, tensors: Mapping[str, bytes] | None = None) -> None:
    """Write a safetensors file of bytes."""
    header, data = {}, b""
    for name, content in (tensors or {"weight": b"\x00" * 64}).items():
        end = len(data) + len(content)
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [len(data), end]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_base(folder: Path, **tokenizer: Any) -> Path:
    """Write the folder of a base model: configuration, tokenizer, and weights of 64 bytes that nobody computes with."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, **tokenizer)
    write_safetensors(folder / "model.safetensors")
    return folder


def write_llama_cpp(folder: Path, architectures: Iterable[str] = ("LlamaForCausalLM",)) -> Path:
    """Write as much of llama.cpp's folder as tells what its converter knows."""
    table = folder / "convert" / "conversion"
    table.mkdir(parents=True)
    (folder / "VERSION").write_text("0.0.1\n")
    (table / "__init__.py").write_text(f"TEXT_MODEL_MAP: dict[str, str] = {dict.fromkeys(architectures, 'module')}\n")
    return folder


def messages(*texts: str, system: str = "") -> list[dict[str, str]]:
    """Return a conversation in which user and assistant speak by turns."""
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns
