"""What `convert` reads of its inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.chat_template import guarded
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.corpus import TEXTS, with_control_tokens
from tunesmith_stages.convert.folder import read_config, token_text
from tunesmith_stages.convert.read_back import adds_bos
from tunesmith_stages.program import StageError, Work


@dataclass(frozen=True)
class Source:
    """Everything that is read from the inputs."""

    base: Path
    trained: Path
    model: Path
    """Whose config.json counts: the base's for an adapter, else that of the fine-tuned model."""
    config: Mapping[str, Any]
    template: bytes
    """As it was trained with."""
    tokens: Mapping[str, Any]
    prompts: list[dict[str, Any]]
    reference: Mapping[str, Any]
    add_bos: bool

    @property
    def chat_template(self) -> str:
        """The template as it goes into the GGUF."""
        return guarded(self.template.decode("utf-8"))

    @property
    def is_adapter(self) -> bool:
        """Whether training left an adapter rather than whole weights."""
        return self.model == self.base

    @property
    def texts(self) -> list[str]:
        """The texts on which transformers and llama.cpp must agree."""
        end, eos = self.tokens["endOfTurn"]["text"], token_text(self.base, self.tokens["eosTokenId"])
        return [*TEXTS, *with_control_tokens(sorted({text for text in (end, eos) if text}))]


def read_source(work: Work) -> Source:
    """Read the unit's inputs: base, prepared data and what training left."""
    base, prepared, trained = work.input("base"), work.input("prepared"), work.input("trained")
    model = base if (trained / "adapter_config.json").is_file() else trained
    tokens = read_json(prepared / "tokens.json")
    prompts = read_json(prepared / "probes.json")["prompts"]
    return Source(
        base=base,
        trained=trained,
        model=model,
        config=read_config(model),
        template=(prepared / "chat_template.jinja").read_bytes(),
        tokens=tokens,
        prompts=prompts,
        reference=read_json(trained / "reference.json"),
        add_bos=adds_bos(tokens, prompts, token_text(base, tokens["bosTokenId"])),
    )


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        StageError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StageError(ExitCode.MISSING_INPUT, f"{path} cannot be read: {error.strerror}") from error
