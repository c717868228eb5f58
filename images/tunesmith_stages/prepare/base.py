"""What `prepare` must know of the base model: its tokenizer, its template, and that the way out exists for it.

What cannot work is refused here, on the CPU, before anything is trained.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith_stages.architectures import require_supported
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.choosing import chosen_template, with_job_choices
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import llama_cpp

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
        "<turn|>",
        "<|flush|>",
        "<|calls|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    }
)


@dataclass(frozen=True)
class Base:
    """The parts of a base model that preparing needs."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    """The chat template to train with and to serve."""
    marked: str | None
    """The same with its ``{% generation %}`` blocks, if it has any."""
    template_name: str
    """``tokenizer``, ``jinja``, or the name of one of ours."""
    thinking: bool | None
    """What `chatTemplate.enableThinking` says."""
    vocab_size: int
    """Rows of the embedding."""
    end_ids: frozenset[int]
    """Ids that end a generation by the model's own configuration."""

    def stops_at(self, token: int) -> bool:
        """Say whether the model's configuration or llama.cpp takes a token for an end."""
        return token in self.end_ids or self.tokenizer.convert_ids_to_tokens(token) in _KNOWN_ENDS

    def check_end_of_turn(self, token: int) -> None:
        """Prove that the end-of-turn token, once learnt, will stop the served model.

        Raises:
            StageError: neither the model's configuration nor llama.cpp takes it for an end.
        """
        if self.stops_at(token):
            return
        text = self.tokenizer.convert_ids_to_tokens(token)
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


def load_base(folder: Path, chat_template: Mapping[str, Any] | None) -> Base:
    """Read the base model's configuration and tokenizer; `chat_template` is what the job says about the template.

    The tokenizer is taken from tokenizer.json as it stands, without the changes that transformers' classes for some
    families make on loading: llama.cpp will serve what the file says. That also spares importing PyTorch.

    Raises:
        StageError: the architecture is not known, or the tokenizer or a template is missing.
    """
    from transformers import PreTrainedTokenizerFast

    config = _object(folder / "config.json")
    _require_causal_lm(config)
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise StageError(
            ExitCode.BAD_DATA,
            f"the base model's tokenizer cannot be loaded: {str(error).strip().partition(chr(10))[0]}",
            reason="TokenizerMissing",
            hint="Copy tokenizer.json and tokenizer_config.json of the model to the volume again.",
        ) from error
    if tokenizer.eos_token_id is None:
        raise StageError(
            ExitCode.BAD_CONFIG,
            "the base model's tokenizer has no eos_token, so nothing would tell the served model where to stop",
            reason="EosTokenMissing",
            hint="Name one as eos_token in tokenizer_config.json.",
        )
    tokenizer.model_max_length = sys.maxsize  # rows that are too long are counted and named by us
    name, source = chosen_template(tokenizer, chat_template or {})
    served, marked = with_job_choices(source, tokenizer, name, chat_template or {})
    thinking = (chat_template or {}).get("enableThinking")
    return Base(tokenizer, served, marked, name, thinking, _vocab_size(config), _end_ids(folder, tokenizer))


def _require_causal_lm(config: Mapping[str, Any]) -> None:
    """Refuse an architecture that transformers could not train or llama.cpp could not convert."""
    architecture = require_supported(config, llama_cpp())
    if architecture not in _causal_lms():
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"{architecture}, the base model's architecture, is no causal language model of transformers",
            reason="UnsupportedArchitecture",
            hint="Use a base model of an architecture that transformers and llama.cpp both know.",
        )


@cache
def _causal_lms() -> frozenset[str]:
    """Return the causal language models that transformers knows.

    Its table is read as text: importing it would import PyTorch, several seconds for one name.
    """
    package = importlib.util.find_spec("transformers")
    folder = Path(package.origin).parent if package and package.origin else Path()
    source = (folder / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES":
            pairs = ast.literal_eval(node.value.args[0]) if isinstance(node.value, ast.Call) else []
            return frozenset(_flat(names for _, names in pairs))
    raise StageError(
        ExitCode.INTERNAL, "this transformers has no table of causal language models where it is looked for"
    )


def _vocab_size(config: Mapping[str, Any]) -> int:
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    if not isinstance(size, int):
        raise StageError(ExitCode.BAD_DATA, "config.json of the base model has no `vocab_size`", reason="NotAModel")
    return size


def _end_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    ids: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            value = _object(folder / name).get("eos_token_id")
            ids.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset({*ids, tokenizer.eos_token_id})


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{path.name} of the base model is not JSON: {error}"
        raise StageError(ExitCode.BAD_DATA, message, reason="NotAModel") from error
    if not isinstance(data, dict):
        raise StageError(
            ExitCode.BAD_DATA, f"{path.name} of the base model must hold a JSON object", reason="NotAModel"
        )
    return data


def _flat(names: Iterable[Any]) -> set[str]:
    return {name for item in names for name in ((item,) if isinstance(item, str) else item)}
