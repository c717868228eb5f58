"""The chat templates that come with Tunesmith: which control tokens each needs, and its text.

The texts lie in ``tunesmith_stages/templates``; they write the public conventions of the model families. Where a family
has a form for functions, its template knows `tools`; thinking is a variant of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

_FOLDER = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class NamedTemplate:
    """What a family's template needs of a tokenizer, besides its ``eos_token``."""

    tokens: tuple[str, ...] = ()
    """Control tokens."""
    thinking: str | None = None
    """Name of the variant whose thinking can be switched on and off, if there is one."""


_CHATML = ("<|im_start|>", "<|im_end|>")
NAMED = {
    "default": NamedTemplate(),
    "alpaca": NamedTemplate(),
    "chatml": NamedTemplate(_CHATML),
    "qwen": NamedTemplate(_CHATML, thinking="qwen_thinking"),
    "yi": NamedTemplate(_CHATML),
    "llama3": NamedTemplate(("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "gemma": NamedTemplate(("<bos>", "<start_of_turn>", "<end_of_turn>")),
    "mistral": NamedTemplate(("<s>", "</s>")),
    "phi": NamedTemplate(("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "deepseek": NamedTemplate(("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")),
    "vicuna": NamedTemplate(),
    "zephyr": NamedTemplate(),
}
"""By the name in `chatTemplate.name`."""


def named_template(name: str, control_tokens: Collection[str], *, thinking: bool | None) -> str:
    """Return the Jinja text of a template that comes with Tunesmith.

    Args:
        name: as in `chatTemplate.name`.
        control_tokens: those that the tokenizer has.
        thinking: what `chatTemplate.enableThinking` says.

    Raises:
        StageError: no such template, or the tokenizer lacks its tokens.
    """
    template = NAMED.get(name)
    if template is None:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`model.chatTemplate.name` is {name!r}, which no template is called",
            reason="TemplateUnknown",
            hint=f"Name one of {', '.join(NAMED)}.",
        )
    missing = [token for token in template.tokens if token not in control_tokens]
    if missing:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the base model's tokenizer lacks control tokens of the template {name!r}: {', '.join(missing)}",
            reason="TemplateTokensMissing",
            hint="Name the template of the base model's own family, or `default`, which needs no such token.",
        )
    file = name if thinking is None or template.thinking is None else template.thinking
    return (_FOLDER / f"{file}.jinja").read_text(encoding="utf-8")
