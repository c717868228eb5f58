"""Checks of the base by the heads of its weight files: no tensor is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ALL_LINEAR, ExitCode
from tunesmith_stages.convert.safetensors_file import FLOATS, SafetensorsFile, TensorInfo
from tunesmith_stages.program import StageError

_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)
"""Ends of the names that architectures give to the matrix with a row for each token."""
_NOT_WEIGHTS = ("BOOL", "F64")
"""Number formats of masks and tables that older models carry along; they are not trained."""
_NAMED = 3


@dataclass(frozen=True)
class Weights:
    """The weight files of a model and what they say of themselves."""

    files: tuple[SafetensorsFile, ...]

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by its name."""
        return {name: info for file in self.files for name, info in file.tensors.items()}

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.size for info in self.tensors.values())

    def file_of(self, name: str) -> SafetensorsFile:
        """Return the file that holds a tensor."""
        return next(file for file in self.files if name in file.tensors)

    def embedding(self) -> TensorInfo | None:
        """Return the matrix with a row for each token, if it is called as such matrices are."""
        return next((info for name, info in self.tensors.items() if name.endswith(_EMBEDDINGS)), None)


def weights_of(base: Path) -> Weights:
    """Read the heads of a model's weight files."""
    return Weights(tuple(SafetensorsFile(path) for path in sorted(base.glob("*.safetensors"))))


def are_floats(config: Mapping[str, Any], weights: Weights) -> str:
    """The weights are numbers that can be trained, not already quantized ones.

    Raises:
        StageError: they are quantized (GPTQ, AWQ, bitsandbytes, FP8...).
    """
    settings = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    whole = [
        info for info in weights.tensors.values() if info.dtype not in (*FLOATS, *_NOT_WEIGHTS) and _is_weight(info)
    ]
    if settings or whole:
        method = settings.get("quant_method") if isinstance(settings, Mapping) else None
        kinds = ", ".join(sorted({info.dtype for info in whole}))
        how = f"by {method}" if method else f"some are {kinds}" if whole else "as config.json says"
        raise StageError(
            ExitCode.BAD_DATA,
            f"the base's weights are quantized already ({how}): they can neither be trained nor converted",
            reason="QuantizedBase",
            hint="Take the original model in 16 or 32 bits; Tunesmith quantizes what comes out of the training.",
        )
    return f"{len(weights.tensors)} tensors of {', '.join(sorted({info.dtype for info in weights.tensors.values()}))}"


def _is_weight(info: TensorInfo) -> bool:
    """Say whether it is none of the whole numbers that come with good models: masks of attention, positions.

    GPT-NeoX and GPT-J have masks of shape (1, 1, length, length), written as bytes by older versions of torch.
    """
    mask = len(info.shape) == 4 and info.shape[:2] == (1, 1) and info.shape[2] == info.shape[3]
    return not mask and not info.name.endswith("position_ids")


def are_not_empty(weights: Weights) -> str:
    """No tensor has lost its content, as in a ZeRO-3 save that was not gathered.

    Raises:
        StageError: one has.
    """
    empty = sorted(name for name, info in weights.tensors.items() if info.size == 0)
    if empty or not weights.tensors:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{len(empty)} of the base's {len(weights.tensors)} tensors are empty: {', '.join(empty[:_NAMED])}",
            reason="EmptyTensors",
            hint="They were not gathered when the model was saved, which a ZeRO-3 training must do. Save it again.",
        )
    return f"{weights.bytes:,} bytes"


def vocabulary_fits(base: Path, config: Mapping[str, Any], weights: Weights) -> str:
    """Every token has a row in the embedding, and config.json says how many rows there are.

    Raises:
        StageError: the tokenizer, the configuration and the weights disagree.
    """
    rows = rows_of(config, weights)
    stated = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size", rows))
    if stated != rows:
        raise StageError(
            ExitCode.BAD_DATA,
            f"config.json of the base says `vocab_size` {stated}, but its embedding has {rows} rows",
            reason="VocabularySizeDiffers",
            hint="Correct `vocab_size`, or take the config.json that belongs to the weights.",
        )
    highest, text = _last_token(base)
    if highest >= rows:
        raise StageError(
            ExitCode.BAD_DATA,
            f"the tokenizer knows the token {text!r} with the id {highest}, but the model's embedding has {rows} rows",
            reason="TokensBeyondEmbedding",
            hint="The tokenizer and the weights do not belong together, or tokens were added without resizing the "
            "embedding (`model.resize_token_embeddings`).",
        )
    return f"{highest + 1} tokens, {rows} rows"


def rows_of(config: Mapping[str, Any], weights: Weights) -> int:
    """Return how many tokens the model has rows for."""
    embedding = weights.embedding()
    if embedding is not None:
        return embedding.shape[0]
    return int(config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size", 0)))


def _last_token(base: Path) -> tuple[int, str]:
    """Return the highest id of ``tokenizer.json``, and its token."""
    tokenizer = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"].get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score, the id is the place
        vocabulary = {entry[0]: place for place, entry in enumerate(vocabulary)}
    ids = {**{int(place): text for text, place in vocabulary.items()}}
    ids |= {int(entry["id"]): str(entry["content"]) for entry in tokenizer.get("added_tokens", [])}
    return max(ids.items(), default=(-1, ""))


def require_modules(weights: Weights, targets: Sequence[str]) -> str:
    """Every target module is one of the base's matrices, by the names in its weight files.

    Raises:
        StageError: one is not.
    """
    modules = {name.removesuffix(".weight") for name, info in weights.tensors.items() if len(info.shape) > 1}
    for target in targets:
        if target != ALL_LINEAR and not any(module == target or module.endswith(f".{target}") for module in modules):
            known = sorted({module.rpartition(".")[2] for module in modules})
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"`training.lora.targetModules` names {target!r}, which the base model does not have; it has "
                f"{', '.join(known)}",
                reason="TargetModuleUnknown",
                hint=f"Name some of these, or {ALL_LINEAR}.",
            )
    return f"{', '.join(targets)} found" if targets else "all weights are trained"
