"""What the prompts are by the tokenizer that the model was trained with: the side that Ollama is compared with.

The rendering is transformers' own. Its ``AutoTokenizer`` imports torch, which alone takes longer than all the rest of
the stage, so the tokenizer's file is loaded without the code of its model class first. `prepare` left prompts with
their ids, made with the ``AutoTokenizer``; where the short way does not give the same ones, the long way is taken.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.convert.folder import token_text
from tunesmith_stages.convert.read_back import adds_bos
from tunesmith_stages.ollama import Message
from tunesmith_stages.register.serving_day import ServingDay


@dataclass(frozen=True)
class Prompt:
    """What the model is given for a conversation."""

    text: str
    """The rendered template with the generation prompt; without the BOS if the tokenizer writes one itself, as
    llama.cpp leaves it out then to not have it twice."""
    tokens: int
    """How many tokens the model sees, any BOS included."""


def probes_of(prepared: Path) -> Sequence[Mapping[str, Any]]:
    """Return the prompts that `prepare` set aside, each with its ``messages``, ``text`` and token ``ids``."""
    prompts: Sequence[Mapping[str, Any]] = json.loads((prepared / "probes.json").read_bytes())["prompts"]
    return prompts


class Reference:
    """The base's tokenizer with the template that the data was rendered with.

    Args:
        base: folder of the base model.
        prepared: folder of the stage `prepare`.
    """

    def __init__(self, base: Path, prepared: Path) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        # Bytes, because a template's line ends must stay what they are.
        self.template = (prepared / "chat_template.jinja").read_bytes().decode()
        self.day = ServingDay()
        self.probes = probes_of(prepared)
        tokens = json.loads((prepared / "tokens.json").read_bytes())
        self._adds_bos = adds_bos(tokens, self.probes, token_text(base, tokens["bosTokenId"]))  # as the GGUF says
        self._tokenizer: Any = _plain_tokenizer(base)
        if self._tokenizer is None or not all(map(self._agrees, self.probes)):
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)

    def prompt(self, messages: Sequence[Message], think: bool | None) -> Prompt | None:
        """Return the prompt for a conversation, or None if the template refuses it (such as two users in a row).

        A template that writes the date writes today's, as the server does.
        """
        from jinja2 import TemplateError

        more = {} if think is None else {"enable_thinking": think}
        try:
            with self.day.in_force():
                text: str = self._tokenizer.apply_chat_template(
                    list(messages), chat_template=self.template, tokenize=False, add_generation_prompt=True, **more
                )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError):
            return None
        tokens = len(self._tokenizer.encode(text, add_special_tokens=False))
        if not self._adds_bos:
            return Prompt(text, tokens)
        bos: str = self._tokenizer.bos_token
        return Prompt(text.removeprefix(bos), tokens if text.startswith(bos) else tokens + 1)

    def _agrees(self, probe: Mapping[str, Any]) -> bool:
        """Say whether a probe comes to the text and the ids that `prepare` made of it."""
        if self._adds_bos and self._tokenizer.bos_token is None:
            return False
        ids = self._tokenizer.encode(probe["text"], add_special_tokens=False)
        same: bool = ids == probe["ids"][-len(ids) :]
        return same and self._rendered_as_data(probe["messages"]) == probe["text"]

    def _rendered_as_data(self, messages: Sequence[Message]) -> str | None:
        """Return what `prepare` makes of a prompt, on the day that templates are told there."""
        from jinja2 import TemplateError

        from tunesmith_stages.prepare.chat import ChatTemplate

        try:
            return ChatTemplate(self.template, self._tokenizer.special_tokens_map).render(messages, ask=True)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError):
            return None


def _plain_tokenizer(base: Path) -> Any:
    """Return the tokenizer that ``tokenizer.json`` describes, or None if that file is not enough to load one."""
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
