"""The model that is trained: the base in the precision asked for, with an adapter or without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tunesmith_stages.contract import ALL_LINEAR, ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.adapted import left_out
from tunesmith_stages.train.settings import Lora, Precision

DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16, Precision.FP32: torch.float32}

_SHOWN = 20


def load_base(folder: Path, precision: Precision, *, quantized: bool = False) -> Any:
    """Load the base for training.

    With ZeRO-3 the training arguments must exist already: transformers then shares the weights out as it reads them.

    Args:
        folder: the base.
        precision: number format of the weights.
        quantized: whether the linear layers are to be held in 4 bits (NF4, with the scales quantized again).

    Raises:
        StageError: it cannot be read, or weights are missing, or the package that holds them in 4 bits.
    """
    dtype = DTYPES[precision]
    if quantized and find_spec("bitsandbytes") is None:
        raise StageError(
            ExitCode.BAD_CONFIG,
            "`finetuningType: QLoRA` holds the weights in 4 bits with the package `bitsandbytes`, which is not here",
            reason="QuantizerMissing",
            hint="Install it, or use the image of the stages, which has it on Linux; or train LoRA.",
        )
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=_four_bits(dtype) if quantized else None,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise StageError(
            ExitCode.BAD_DATA, f"the base in {folder} cannot be loaded: {error}", reason="BaseUnreadable"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise StageError(
            ExitCode.BAD_DATA,
            f"the base in {folder} lacks {len(missing)} of its weights, among them {', '.join(missing[:3])}",
            reason="BaseIncomplete",
            hint="Fetch the base again; training would start these weights at random.",
        )
    model.config.use_cache = False
    return model


def _four_bits(dtype: torch.dtype) -> Any:
    """Return how QLoRA holds the weights: the storage has the type of all others, so that ZeRO-3 can share it out."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
    )


def freeze_but_last(model: Any, layers: int) -> None:
    """Leave the last `layers` layers to be trained, and nothing else.

    Raises:
        StageError: the model has fewer.
    """
    blocks = next(module for module in model.get_decoder().children() if isinstance(module, nn.ModuleList))
    if layers > len(blocks):
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`freeze.trainableLayers` is {layers}, but the base has {len(blocks)} layers",
            reason="TooManyLayers",
            hint="Lower it, or train all weights with `finetuningType: Full`.",
        )
    model.requires_grad_(False)
    for block in blocks[-layers:]:
        block.requires_grad_(True)


def trains_embeddings(model: Any) -> bool:
    """Return whether the input embeddings are trained, so that gradients flow through all layers by themselves."""
    return bool(model.get_input_embeddings().weight.requires_grad)


def check_vocabulary(id_range: tuple[int, int], model: Any) -> None:
    """Check that the model has an embedding for every token id.

    Raises:
        StageError: it has not.
    """
    lowest, highest = id_range
    rows = shape_of(model.get_input_embeddings().weight)[0]
    if lowest < 0 or highest >= rows:
        wrong = lowest if lowest < 0 else highest
        raise StageError(
            ExitCode.BAD_DATA,
            f"the prepared rows hold token id {wrong}, but the base has embeddings for ids 0 to {rows - 1} only",
            reason="TokenOutOfVocabulary",
            hint="The tokenizer has tokens that the base was never given. Resize the base's embeddings, or use the "
            "tokenizer that belongs to it.",
        )


def shape_of(parameter: Any) -> tuple[int, ...]:
    """Return a parameter's whole shape, also where ZeRO-3 has shared it out."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear modules by their full names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def check_targets(wanted: Iterable[str], model: Any) -> None:
    """Check that every name in `wanted` is the last part of some linear module's name.

    Raises:
        StageError: it is not, or it is an output layer that shares its weight with the embeddings.
    """
    names = linear_modules(model)
    known = sorted({name.rsplit(".", 1)[-1] for name in names})
    for target in wanted:
        hits = [name for name in names if name == target or name.endswith(f".{target}")]
        if not hits:
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"`lora.targetModules` names {target!r}, but no linear module of the base is called so",
                reason="TargetModuleUnknown",
                hint=f"Use {ALL_LINEAR}, or some of: {', '.join(known[:_SHOWN])}.",
            )
        head = model.get_output_embeddings()
        if model.config.get_text_config().tie_word_embeddings and any(names[name] is head for name in hits):
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"`lora.targetModules` names {target!r}, which in this base shares its weight with the embeddings: "
                "a change of one would be lost or change the other",
                reason="TargetModuleTied",
                hint=f"Use {ALL_LINEAR}, which leaves the output layer out.",
            )


def add_adapter(model: Any, lora: Lora) -> Any:
    """Return the model with a fresh adapter; only the adapter is trained.

    Raises:
        StageError: see :func:`check_targets`.
    """
    from peft import LoraConfig, get_peft_model

    everything = lora.target_modules == (ALL_LINEAR,)
    if not everything:
        check_targets(lora.target_modules, model)
    targets = _without_experts(model) if everything else list(lora.target_modules)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
    )
    with _no_conversion():
        # The adapter gets the base's number format: DeepSpeed keeps float32 master weights of its own.
        return get_peft_model(model, config, autocast_adapter_dtype=False)


def _without_experts(model: Any) -> str | list[str]:
    """Return what :data:`ALL_LINEAR` is to PEFT: of a mixture of experts the names of the modules that are adapted."""
    out = left_out(name for name, _ in model.named_modules())
    if not out:
        return "all-linear"
    head = model.get_output_embeddings()
    return sorted(name for name, module in linear_modules(model).items() if module is not head and name not in out)


@contextlib.contextmanager
def _no_conversion() -> Iterator[None]:
    """Keep PEFT from reading names of modules as those of transformers 4, where experts were modules of their own.

    It does so for adapters of that time, and takes the names of dense layers and shared experts for those of experts:
    with them it would adapt the fused tensors.
    """
    from peft.utils import transformers_weight_conversion as conversion

    convert = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *_args, **_kwargs: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = convert
