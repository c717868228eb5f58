"""What the prompts are by a GGUF itself: the side that Ollama is compared with where the base came as one.

There is no tokenizer of Hugging Face then. The file's own Jinja is rendered by transformers, and llama-server, which
runs on the file here, says into how many tokens it splits the text. So it is proven that Ollama took the file as it is
and shows the model the same prompts; what the file itself says is taken for right.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.gguf_file import TEMPLATE, read_gguf
from tunesmith_stages.llama_server import LlamaServer
from tunesmith_stages.ollama import Message
from tunesmith_stages.program import StageError
from tunesmith_stages.register.reference import Prompt
from tunesmith_stages.register.serving_day import ServingDay
from tunesmith_stages.register.shapes import SHAPES

_PROBES = ("user", "system and user", "several turns")
"""Shapes of conversation that stand for prompts from training data."""


class GgufReference:
    """A GGUF with its template.

    Args:
        base: folder of the base model, which holds ``model.gguf``; its template counts.
        server: serves the file that is registered.

    Raises:
        StageError: the template renders no conversation.
    """

    def __init__(self, base: Path, server: LlamaServer) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        metadata = read_gguf(base / "model.gguf").metadata
        self.template = str(metadata[TEMPLATE])
        self.day = ServingDay()
        self._words = {name: _word(metadata, name) for name in ("bos_token", "eos_token")}
        self._server = server
        bos = metadata.get("tokenizer.ggml.bos_token_id")
        self._adds_bos = bos is not None and server.tokenize("", add_special=True)[:1] == [bos]
        self.probes = self._probes()
        if not self.probes:
            raise StageError(
                ExitCode.BAD_CONFIG,
                "the chat template of the GGUF that is the base refuses every conversation",
                reason="GgufWithoutTemplate",
                hint="Use a GGUF that was tuned for conversations.",
            )

    def prompt(self, messages: Sequence[Message], think: bool | None) -> Prompt | None:
        """Return the prompt for a conversation, or None if the template refuses it (such as two users in a row)."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        more = {} if think is None else {"enable_thinking": think}
        try:
            with self.day.in_force():
                (text,), _ = render_jinja_template(
                    [list(messages)], chat_template=self.template, add_generation_prompt=True, **self._words, **more
                )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError):
            return None
        if self._adds_bos:
            text = text.removeprefix(self._words["bos_token"])
        return Prompt(text, len(self._server.tokenize(text, add_special=True)))

    def _probes(self) -> Sequence[Mapping[str, Any]]:
        """Return prompts in the form of those that `prepare` sets aside."""
        prompts = {name: self.prompt(SHAPES[name], None) for name in _PROBES}
        found = {name: prompt.text for name, prompt in prompts.items() if prompt is not None}
        return [
            {"messages": SHAPES[name], "text": text, "ids": self._server.tokenize(text, add_special=True)}
            for name, text in found.items()
        ]


def _word(metadata: Mapping[str, Any], name: str) -> str:
    """Return how a token is written, such as ``bos_token``; "" if the file names none."""
    token, words = metadata.get(f"tokenizer.ggml.{name}_id"), metadata.get("tokenizer.ggml.tokens") or []
    return str(words[token]) if token is not None and token < len(words) else ""
