"""Keeps the tuned model beside its GGUF as a whole Hugging Face folder, for whoever goes on from there.

It loads with transformers as it lies: weights in safetensors, configuration, tokenizer, the chat template that was
trained with (in ``chat_template.jinja`` alone, where transformers looks first), and a generation configuration that
knows the token with which the model ends its turn.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tunesmith_stages.convert.folder import TOKENIZER_FILES
from tunesmith_stages.convert.safetensors_file import INDEX

_GENERATION = "generation_config.json"


def keep(folder: Path, assembled: Path, base: Path, *, chat_template: bytes, end_of_turn: int) -> None:
    """Make the model in `folder`, of what was put together for the converter.

    Args:
        folder: is made.
        assembled: see :mod:`~tunesmith_stages.convert.folder`; weights that were written there are moved.
        base: whose tokenizer it is.
        chat_template: the template, as it was trained with.
        end_of_turn: the token at which the model is to stop.
    """
    folder.mkdir()
    for path in [*sorted(assembled.glob("*.safetensors")), assembled / INDEX]:
        if path.is_file():
            _put(path, folder / path.name)
    shutil.copyfile(assembled / "config.json", folder / "config.json")
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    settings = _object(assembled / "tokenizer_config.json")
    settings.pop("chat_template", None)
    _write(folder / "tokenizer_config.json", settings)
    (folder / "chat_template.jinja").write_bytes(chat_template)
    _write(folder / _GENERATION, with_end(_object(base / _GENERATION), end_of_turn))


def with_end(settings: dict[str, Any], end_of_turn: int) -> dict[str, Any]:
    """Return a generation configuration that stops at `end_of_turn` too."""
    given = settings.get("eos_token_id")
    ends = given if isinstance(given, list) else [] if given is None else [given]
    ends = ends if end_of_turn in ends else [end_of_turn, *ends]
    return {**settings, "eos_token_id": ends if len(ends) > 1 else ends[0]}


def _put(source: Path, target: Path) -> None:
    """Move a file that lies there; of one that only appears there make a second name, or a copy where that fails."""
    if not source.is_symlink():
        source.rename(target)
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _object(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
