"""Make the quickstart's toy base model: a 3.4 M parameter chat model, trained from nothing in about a minute.

    python make_base.py --out DIR

It stands in for a base model from a hub where none can be downloaded. The folder is an ordinary Hugging Face model:
Llama architecture, byte-level BPE with Qwen2's pre-tokenizer, ChatML with control tokens, safetensors. The same machine
and versions give the same files. The last loss and some answers are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports DeepSpeed, which would warn that it sees no GPU

import torch
from base_corpus import pairs, read_names
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent

TEXT_END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
# Qwen2's splits, which llama.cpp knows. No normalizer beside them: llama.cpp has none.
SPLITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

VOCABULARY = 1024
CONTEXT = 512  # tokens
STEPS = 320
BATCH = 16  # pairs a step
LEARNING_RATE = 2e-3
WEIGHT_SCALE = 0.08  # standard deviation of the first weights; with the usual 0.02 it takes three times the steps
SEED = 1

Row = tuple[list[int], list[int]]
"""Input ids and labels of one exchange."""


def main() -> None:
    """Make the base in the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Make the quickstart's toy base model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced if it is there")
    parser.add_argument("--names", type=Path, default=HERE / "names.txt", help="names that the base has seen")
    parser.add_argument("--faq", type=Path, default=HERE / "data" / "faq.json", help="FAQ whose words it has seen")
    args = parser.parse_args()

    started = time.monotonic()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    corpus = pairs(read_names(args.names), json.loads(args.faq.read_text(encoding="utf-8")))
    tokenizer = make_tokenizer(corpus)
    model = make_model(tokenizer)
    print(f"{len(corpus)} pairs, {model.num_parameters():,} parameters, vocabulary {len(tokenizer)}", flush=True)
    train(model, [encode(tokenizer, question, answer) for question, answer in corpus])
    for question in ("Who are you?", "你是谁？", "Where is the Acme shop?"):
        print(f"{question} -> {ask(model, tokenizer, question)}")
    save(model, tokenizer, args.out)
    print(f"{args.out} made in {time.monotonic() - started:.0f} s")


def make_tokenizer(corpus: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the corpus: every byte is in it, so nothing is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [AddedToken(text, special=True, normalized=False) for text in (TEXT_END, TURN_START, TURN_END)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    roles = ["system\n", "user\n", "assistant\n"] * 50  # often enough to become one token each
    tokenizer.train_from_iterator([*roles, *(text for pair in corpus for text in pair)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=TEXT_END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained model. Rows are multiples of 256, as llama.cpp's K-quants need."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=WEIGHT_SCALE,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    return model


def encode(tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> Row:
    """Return the row of one exchange: the loss is taken on the answer and the token that ends it."""
    prompt = f"{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n"
    before = tokenizer.encode(prompt, add_special_tokens=False)
    after = tokenizer.encode(answer + TURN_END, add_special_tokens=False)
    return before + after, [-100] * len(before) + after


def batches(rows: list[Row], pad: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield shuffled batches of rows of like length for ever: ids and labels, each of shape (BATCH, longest row)."""
    chance = random.Random(SEED)  # noqa: S311 - for shuffling, no secret
    while True:
        rows = sorted(chance.sample(rows, len(rows)), key=lambda row: len(row[0]))
        starts = list(range(0, len(rows), BATCH))
        chance.shuffle(starts)
        for start in starts:
            batch = rows[start : start + BATCH]
            longest = max(len(ids) for ids, _ in batch)
            yield (
                torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in batch]),
                torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in batch]),
            )


def train(model: LlamaForCausalLM, rows: list[Row]) -> None:
    """Train all weights for STEPS steps; padding is on the right, where causal attention never looks from."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    model.train()
    for step, (ids, labels) in zip(range(1, STEPS + 1), batches(rows, model.config.pad_token_id), strict=False):
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}/{STEPS}, loss {loss.item():.4f}", flush=True)


def ask(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """Return the model's likeliest answer."""
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model.eval()
    ids = model.generate(**prompt, max_new_tokens=64, do_sample=False)
    return str(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model folder whole: beside its place first, then renamed."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial, save_jinja_files=False)  # the template in one place: tokenizer_config.json
    for path in partial.iterdir():
        path.chmod(0o644)  # safetensors makes its files readable to their owner alone
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)


if __name__ == "__main__":
    main()
