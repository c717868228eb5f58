"""Saves what was trained, and proves that all of it arrived."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.model import shape_of

ADAPTER = "default"
"""PEFT's name for the only adapter."""

_SHARD = "4GB"

Shapes = Mapping[str, tuple[int, ...]]


def gather(engine: Any, *, adapter: bool) -> dict[str, torch.Tensor] | None:
    """Return the trained tensors by name; with ZeRO-3 every rank must take part and rank 0 alone gets them."""
    if engine.zero_optimization_partition_weights():
        gathered: dict[str, torch.Tensor] | None = engine._zero3_consolidated_16bit_state_dict(  # noqa: SLF001
            exclude_frozen_parameters=adapter
        )
        return gathered
    state: dict[str, torch.Tensor] = engine.module.state_dict()
    return state


def save_adapter(model: Any, state: Mapping[str, torch.Tensor], folder: Path) -> Shapes:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``; return the shapes that the latter must hold.

    The configuration names no base: that would be a path of this machine, and what the adapter belongs to is in the
    result's key. Its lists are sorted, so that equal trainings leave equal files.
    """
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, state_dict=dict(state), save_embedding_layers=False)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {**model.peft_config[ADAPTER].to_dict(), "base_model_name_or_path": None, "inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    return {_saved_name(name): shape_of(value) for name, value in model.named_parameters() if value.requires_grad}


def _saved_name(name: str) -> str:
    """Return what PEFT calls a parameter in its file; the magnitudes of DoRA have no `weight` at the end there."""
    saved = name.replace(f".{ADAPTER}.", ".")
    return saved.removesuffix(".weight") if saved.endswith(".lora_magnitude_vector.weight") else saved


def save_model(model: Any, state: dict[str, torch.Tensor], folder: Path) -> Shapes:
    """Write the whole model in transformers' format; return the shapes that its files must hold.

    Of tensors that share one weight (tied output layer and embeddings) only one is in the files, and some models are
    laid out differently there than in memory (mixtures of experts).
    """
    from transformers.core_model_loading import revert_weight_conversion

    model.config.use_cache = True  # it was off for training only
    model.save_pretrained(folder, state_dict=state, max_shard_size=_SHARD)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    parameters = model.named_parameters(remove_duplicate=False)
    in_memory = {name: torch.empty(shape_of(value), device="meta") for name, value in parameters if name not in tied}
    return {name: tuple(value.shape) for name, value in revert_weight_conversion(model, in_memory).items()}


def check_saved(folder: Path, expected: Shapes) -> None:
    """Check that the files in `folder` hold exactly the `expected` tensors, with finite numbers.

    Raises:
        StageError: a tensor is missing, too many, of another shape, empty, or not finite.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                tensor = file.get_tensor(name)
                found[name] = tuple(tensor.shape)
                if not bool(torch.isfinite(tensor).all()):
                    raise _broken("SavedTensorsNotFinite", f"tensor {name} in {path.name} holds NaN or infinity")
    _compare(found, expected)


def _compare(found: Shapes, expected: Shapes) -> None:
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    if missing or extra:
        what = f"{len(missing)} are missing ({', '.join(missing[:3])})" if missing else "none is missing"
        more = f"{len(extra)} too many ({', '.join(extra[:3])})" if extra else "none too many"
        raise _broken("SavedTensorsIncomplete", f"of {len(expected)} tensors {what}, {more}")
    for name, shape in found.items():
        if shape != expected[name] or 0 in shape:
            raise _broken(
                "SavedTensorsIncomplete", f"tensor {name} has shape {list(shape)} instead of {list(expected[name])}"
            )


def _broken(reason: str, text: str) -> StageError:
    return StageError(ExitCode.GATE_FAILED, f"what was saved is not what was trained: {text}", reason=reason)
