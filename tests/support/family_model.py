"""A toy model with the control tokens of every model family, to serve any chat template with.

Its weights are zero: nobody looks at what it says, only at what it is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from support.bigram_model import _gguf_package
from tunesmith_stages.prepare.named_templates import NAMED

MORE_TOKENS = (
    *("<|endoftext|>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>"),
    *("<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"),
    *("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
)
"""What some families have besides."""
ENDS = {
    "chatml": "<|im_end|>",
    "qwen": "<|im_end|>",
    "yi": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi": "<|end|>",
    "deepseek": "<｜end▁of▁sentence｜>",
}
"""The token that ends an answer; of all other templates it is ``</s>``."""
BOS = {"llama3": "<|begin_of_text|>", "gemma": "<bos>", "deepseek": "<｜begin▁of▁sentence｜>"}
"""The token that a text begins with; of all other templates it is ``<s>``."""
WEATHER: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Say how the weather is <in a city> & when.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Où?"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
"""A function, as an API of OpenAI's kind describes it."""
CALL: Mapping[str, Any] = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": 'Zürich "HB"', "days": 2}},
}
"""A call of it."""
_WIDTH = 64
_TEXT = "I am Tunny, a helper of Acme. Who are you? user assistant system function arguments weather"


def control_tokens() -> list[str]:
    """Return the control tokens of all families."""
    return list(
        dict.fromkeys(("<s>", "</s>", *(token for named in NAMED.values() for token in named.tokens), *MORE_TOKENS))
    )


def write_family_base(folder: Path, family: str, *, adds_bos: bool = False, template: str | None = None) -> Path:
    """Write configuration and tokenizer of a toy base model whose BOS and EOS are those of `family`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=440,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in control_tokens()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT] * 20, trainer)
    bos, eos = BOS.get(family, "<s>"), ENDS.get(family, "</s>")
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, str | bool] = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    settings |= {"clean_up_tokenization_spaces": False} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_family_gguf(path: Path, base: Path, template: str) -> Path:
    """Write a model with the tokenizer of `base` and `template` as its chat template, as it is."""
    from tokenizers import Tokenizer

    gguf = _gguf_package()
    settings = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    control = set(control_tokens())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // 4)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in control else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.token_to_id(settings["bos_token"]))
    writer.add_eos_token_id(tokenizer.token_to_id(settings["eos_token"]))
    writer.add_add_bos_token(bool(tokenizer.encode("").ids))
    writer.add_chat_template(template)
    _add_weights(writer, len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_weights(writer: object, size: int) -> None:
    zero, one = np.zeros((_WIDTH, _WIDTH), np.float16), np.ones(_WIDTH, np.float32)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors = {
        "token_embd.weight": np.zeros((size, _WIDTH), np.float16),
        "output.weight": np.zeros((size, _WIDTH), np.float16),
        "output_norm.weight": one,
        "blk.0.attn_norm.weight": one,
        "blk.0.ffn_norm.weight": one,
        **{f"blk.0.{name}.weight": zero for name in names},
    }
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)  # type: ignore[attr-defined]
