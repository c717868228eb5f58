"""Puts together the Hugging Face folder that llama.cpp's converter reads.

Weights come from the merge or, by link, from a full fine-tuning; the tokenizer is the base's; the chat template is the
one trained with, behind its guard, and stands in one place only: ``chat_template`` of tokenizer_config.json, which the
converter prefers to any other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.safetensors_file import INDEX, SafetensorsFile, weight_files
from tunesmith_stages.program import StageError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's ``config.json``.

    Raises:
        StageError: it is missing or not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StageError(ExitCode.MISSING_INPUT, f"{path} is missing", reason="MissingConfig") from error
    except ValueError as error:
        raise StageError(ExitCode.BAD_DATA, f"{path} is not JSON: {error}", reason="BadConfigFile") from error
    if not isinstance(config, dict):
        raise StageError(ExitCode.BAD_DATA, f"{path} must hold a JSON object", reason="BadConfigFile")
    return config


def token_text(base: Path, token: int | None) -> str:
    """Return how a control token of the base's ``tokenizer.json`` is written; "" if it has no such token."""
    path = base / "tokenizer.json"
    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", []) if path.is_file() else []
    return next((str(entry["content"]) for entry in added if entry["id"] == token), "")


def assemble(folder: Path, model: Path, base: Path, chat_template: str) -> None:
    """Put ``config.json`` of `model` and the tokenizer of `base` into `folder`, which holds the weights already.

    What names code of the model's own (`auto_map`) is left out: the converter would ask transformers to run it.
    """
    _write_json(folder / "config.json", _without_code(read_config(model)))
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            (folder / name).symlink_to((base / name).resolve())
    source = base / "tokenizer_config.json"
    config = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {}
    config["chat_template"] = chat_template
    _write_json(folder / source.name, _without_code(config))


def _without_code(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "auto_map"}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def link_weights(folder: Path, trained: Path) -> None:
    """Make the weights of a full fine-tuning appear in `folder`.

    Raises:
        StageError: one is missing or holds empty tensors, as a ZeRO-3 save can when it was not gathered.
    """
    for path in weight_files(trained):
        empty = sorted(info.name for info in SafetensorsFile(path).tensors.values() if info.size == 0)
        if empty:
            raise StageError(
                ExitCode.BAD_DATA,
                f"{path.name} holds {len(empty)} empty tensors: {', '.join(empty[:5])}",
                reason="BadWeights",
                hint="The weights were not gathered when they were saved. Train again.",
            )
        (folder / path.name).symlink_to(path.resolve())
    if (trained / INDEX).is_file():
        (folder / INDEX).symlink_to((trained / INDEX).resolve())
