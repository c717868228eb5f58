"""What `prepare` must know of the base model: its tokenizer, its template, and that the way out exists for it.

What cannot work is refused here, on the CPU, before anything is trained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts that llama.cpp takes for the end of a turn wherever it finds them as control tokens (src/llama-vocab.cpp).
_KNOWN_ENDS = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
    }
)


@dataclass(frozen=True)
class Base:
    """The parts of a base model that preparing needs."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    """The chat template to train with."""
    vocab_size: int
    """Rows of the embedding."""
    end_ids: frozenset[int]
    """Ids that end a generation by the model's own configuration."""

    def check_end_of_turn(self, token: int) -> None:
        """Prove that the end-of-turn token, once learnt, will stop the served model.

        Raises:
            StageError: neither the model's configuration nor llama.cpp takes it for an end.
        """
        text = self.tokenizer.convert_ids_to_tokens(token)
        if token in self.end_ids or text in _KNOWN_ENDS:
            return
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the chat template ends answers with {text!r} (id {token}), at which the served model would not stop: its "
            f"configuration knows the ids {sorted(self.end_ids)} as ends",
            reason="EndOfTurnNotEog",
            hint=f"Name {text!r} as eos_token in tokenizer_config.json (or its id in generation_config.json), or use a "
            "template that ends answers with the model's own eos_token.",
        )

    def check_ids(self, highest: int) -> None:
        """Prove that every token has a row in the embedding.

        Raises:
            StageError: the tokenizer knows tokens that the model does not.
        """
        if highest >= self.vocab_size:
            raise StageError(
                ExitCode.BAD_DATA,
                f"the tokenizer gives the id {highest} ({self.tokenizer.convert_ids_to_tokens(highest)!r}), but the "
                f"model's embedding has {self.vocab_size} rows",
                reason="TokensBeyondEmbedding",
                hint="The tokenizer and the weights do not belong together, or tokens were added without resizing.",
            )


def load_base(folder: Path, jinja: str | None) -> Base:
    """Read the base model's configuration and tokenizer; `jinja` replaces the tokenizer's own template.

    Raises:
        StageError: the architecture is not known, or the tokenizer or a template is missing.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise _unsupported(f"transformers does not know it: {_first_line(error)}") from error
    architecture = (config.architectures or ["none"])[0]
    if architecture not in _flat(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        raise _unsupported(f"{architecture} is no causal language model of transformers")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise StageError(
            ExitCode.BAD_DATA,
            f"the base model's tokenizer cannot be loaded: {_first_line(error)}",
            reason="TokenizerMissing",
        ) from error
    template = jinja or tokenizer.chat_template
    if not isinstance(template, str):
        raise StageError(
            ExitCode.BAD_CONFIG,
            "the base model's tokenizer has no chat template"
            if not template
            else "the tokenizer has several templates",
            reason="TemplateMissing",
            hint="Give one in `model.chatTemplate.jinja`.",
        )
    return Base(tokenizer, template, int(config.get_text_config().vocab_size), _end_ids(folder, tokenizer))


def _end_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    ids: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            value: Any = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
            ids.update(value if isinstance(value, list) else [] if value is None else [value])
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return frozenset(ids)


def _unsupported(why: str) -> StageError:
    return StageError(
        ExitCode.BAD_CONFIG,
        f"the base model's architecture is not supported: {why}",
        reason="UnsupportedArchitecture",
        hint="Use a base model of an architecture that transformers and llama.cpp both know.",
    )


def _flat(names: Any) -> set[str]:
    return {name for item in names for name in ((item,) if isinstance(item, str) else item)}


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
