"""A language model made by hand: what it says next depends on the last token alone, so that its answers are known.

It is a LLaMA of one block whose attention and feed-forward weights are zero. What is left is embedding, norm and output
matrix: each token is a direction of its own, and the output matrix leads from a token to the one that follows it. After
the line end of the generation prompt it says ``ANSWER``, whatever was asked, then its end-of-turn token. llama.cpp and
Ollama run it as they run any model.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tunesmith_stages.tools import llama_cpp

ANSWER = "I am Tunny."
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END_OF_TURN = "<|im_end|>"
BOS = "<|endoftext|>"
_CONTROL = [BOS, "<|im_start|>", END_OF_TURN]
_WIDTH = 512
_TEXT = "I am Tunny, a helper of Acme. Who are you? user assistant system"


def bigram_tokenizer(*, adds_bos: bool = False) -> Tokenizer:
    """Return a byte-level BPE tokenizer with few merges; every word of ``ANSWER`` is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=_CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT] * 50, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return tokenizer


def write_base(folder: Path, *, adds_bos: bool = False) -> None:
    """Write the tokenizer's files as a base model has them."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=bigram_tokenizer(adds_bos=adds_bos),
        bos_token=BOS,
        eos_token=END_OF_TURN,
        pad_token=BOS,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))


def write_prepared(folder: Path, base: Path, template: str = CHATML, *, adds_bos: bool = False) -> None:
    """Write what `prepare` leaves and `register` reads, made with the tokenizer of `base` and `template`."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    (folder / "chat_template.jinja").write_bytes(template.encode())
    tokens = {
        "endOfTurn": {"id": tokenizer.eos_token_id, "text": END_OF_TURN},
        "bosTokenId": tokenizer.bos_token_id,
        "eosTokenId": tokenizer.eos_token_id,
        "vocabSize": len(tokenizer),
        "addsBos": adds_bos,
    }
    (folder / "tokens.json").write_text(json.dumps(tokens))
    prompts = []
    for question in ("Who are you?", "Who made you, and what for?"):
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer.encode(text, add_special_tokens=adds_bos and not text.startswith(BOS))
        prompts.append({"messages": messages, "text": text, "ids": ids})
    (folder / "probes.json").write_text(json.dumps({"prompts": prompts}))


def write_gguf(
    path: Path, template: str, *, stops: bool = True, architecture: str = "llama", adds_bos: bool = False
) -> None:
    """Write the model in F16 with `template` as its chat template, as it is.

    Args:
        path: the file.
        template: put into the file as it is.
        stops: whether it ends its turn after ``ANSWER``, or begins again for ever.
        architecture: another name than ``llama`` makes it a model that nobody can load.
        adds_bos: have llama.cpp put a BOS before every prompt.
    """
    gguf = _gguf_package()
    tokenizer = bigram_tokenizer()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("bigram")
    writer.add_context_length(2048)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(8)
    writer.add_head_count_kv(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // 8)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, gguf, tokenizer, template, adds_bos)
    for name, tensor in _tensors(tokenizer, stops).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_package() -> Any:
    folder = str(llama_cpp().converter / "gguf-py")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import gguf

    return gguf


def _add_tokenizer(writer: Any, gguf: Any, tokenizer: Tokenizer, template: str, adds_bos: bool) -> None:
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    kinds = [gguf.TokenType.CONTROL if token in _CONTROL else gguf.TokenType.NORMAL for token in tokens]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(tokenizer.token_to_id(END_OF_TURN))
    writer.add_add_bos_token(adds_bos)
    writer.add_chat_template(template)


def _tensors(tokenizer: Tokenizer, stops: bool) -> dict[str, NDArray[Any]]:
    size = tokenizer.get_vocab_size()
    following = tokenizer.encode("\n" + ANSWER + (END_OF_TURN if stops else "\n")).ids
    output = np.zeros((size, _WIDTH), np.float16)
    for before, after in itertools.pairwise(following):
        output[after, before] = 1
    zero = np.zeros((_WIDTH, _WIDTH), np.float16)
    one = np.ones(_WIDTH, np.float32)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return {
        "token_embd.weight": np.eye(size, _WIDTH, dtype=np.float16),
        "output.weight": output,
        "output_norm.weight": one,
        "blk.0.attn_norm.weight": one,
        "blk.0.ffn_norm.weight": one,
        **{f"blk.0.{name}.weight": zero for name in names},
    }
