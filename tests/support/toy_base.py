"""A base model that is whole but for its mind: a Llama of two layers with random weights, and a byte-level tokenizer.

Written with numpy, so that making one takes no time. What is wrong with a base is done to it afterwards, by rewriting
its JSON files or its tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from support.builders import write_tokenizer
from tunesmith_stages.convert.safetensors_file import SafetensorsFile, SafetensorsWriter, TensorInfo, from_float32

CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "eos_token_id": 1,
}

Tensors = dict[str, tuple[str, npt.NDArray[np.float32]]]
"""Name to number format and numbers."""


def write_toy_base(folder: Path, **tokenizer: Any) -> Path:
    """Write the folder of a base; `tokenizer` is handed to :func:`support.builders.write_tokenizer`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_tokenizer(folder, **tokenizer)
    write_tensors(folder / "model.safetensors", tensors_of(CONFIG))
    return folder


def tensors_of(config: Mapping[str, Any]) -> Tensors:
    """Return random weights, BF16, of a Llama with this configuration."""
    width, inner, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    layer = {
        "self_attn.q_proj": (heads, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, heads),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width), "model.norm.weight": (width,)}
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (words, width)
    random = np.random.default_rng(7)
    return {
        name: ("BF16", np.ones(shape, np.float32) if len(shape) == 1 else _normal(random, shape))
        for name, shape in shapes.items()
    }


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return (random.standard_normal(shape) * 0.05).astype(np.float32)


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write a safetensors file."""
    parts = {name: _bytes(kind, numbers) for name, (kind, numbers) in tensors.items()}
    infos = [TensorInfo(name, kind, numbers.shape, 0, len(parts[name])) for name, (kind, numbers) in tensors.items()]
    with SafetensorsWriter(path, infos, {"format": "pt"}) as writer:
        for name, part in parts.items():
            writer.write(name, [part])


def _bytes(kind: str, numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    if kind in {"BF16", "F16", "F32"}:
        with np.errstate(invalid="ignore"):
            return from_float32(numbers.reshape(-1), kind)
    return numbers.astype({"I32": "<i4", "U8": "u1", "I8": "i1"}[kind]).view(np.uint8).reshape(-1)


def change_tensors(base: Path, change: Callable[[Tensors], None]) -> None:
    """Let `change` alter the tensors of a base, by name."""
    file = SafetensorsFile(base / "model.safetensors")
    tensors = {name: (info.dtype, file.floats_of(name).copy()) for name, info in file.tensors.items()}
    change(tensors)
    (base / "model.safetensors").unlink()
    write_tensors(base / "model.safetensors", tensors)


def change_json(base: Path, name: str, **changes: Any) -> None:
    """Set fields of a JSON file of a base; None takes a field out."""
    path = base / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    content |= changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
