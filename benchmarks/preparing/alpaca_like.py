"""Makes what the benchmarks of `prepare` work on: rows that look like Alpaca's, and a small base with a tokenizer.

Words are made of syllables and drawn as in natural language, the n-th most frequent about 1/n times as often as the
first (Zipf). Equal arguments make equal files.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = 16_000
CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
)
"""Control tokens of ChatML, Llama 3 and Gemma."""
_WORDS = 20_000
_SHORTEST, _LONGEST = 10, 120
_ROWS_AT_ONCE = 5_000


def write_rows(path: Path, count: int, *, seed: int = 0) -> None:
    """Write `count` Alpaca rows as JSON lines; instruction and answer have 10 to 120 words together."""
    with path.open("w", encoding="utf-8") as file:
        for instruction, given, output in itertools.islice(_texts(seed), count):
            file.write(json.dumps({"instruction": instruction, "input": given, "output": output}) + "\n")


def write_talks(path: Path, count: int, *, seed: int = 0) -> None:
    """Write `count` Alpaca rows with up to two earlier turns; every third has a system text."""
    texts = _texts(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            instruction, given, output = next(texts)
            history = [[asked, answer] for asked, _, answer in itertools.islice(texts, number % 3)]
            system = next(texts)[0] if number % 3 == 1 else ""
            row = {"instruction": instruction, "input": given, "output": output, "history": history, "system": system}
            file.write(json.dumps(row) + "\n")


def write_base(folder: Path, *, end: str = "<|im_end|>", begin: str | None = None) -> None:
    """Write configuration and tokenizer of a Llama-shaped base with a ChatML template; there are no weights.

    Args:
        folder: is made.
        end: control token that ends an answer.
        begin: control token that begins a text, if there is one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in CONTROL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rows = itertools.islice(_texts(1), 20_000)
    tokenizer.train_from_iterator((text for row in rows for text in row), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        **({"bos_token": begin} if begin else {}),
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "eos_token_id": tokenizer.token_to_id(end),
    }
    (folder / "config.json").write_text(json.dumps(config))


def _texts(seed: int) -> Iterator[tuple[str, str, str]]:
    """Yield instruction, input (often empty, as in Alpaca) and output, without an end."""
    words = _vocabulary()
    rng = np.random.default_rng(seed)
    while True:
        lengths = rng.integers(_SHORTEST, _LONGEST + 1, _ROWS_AT_ONCE)
        drawn = _zipf(rng, int(lengths.sum()))
        shares = rng.uniform(0.1, 0.5, _ROWS_AT_ONCE)
        with_input = rng.random(_ROWS_AT_ONCE) < 0.4
        ends = np.cumsum(lengths)
        for length, end, share, split in zip(lengths, ends, shares, with_input, strict=True):
            text = [words[index] for index in drawn[end - length : end]]
            asked = max(2, int(share * length))
            given = asked // 2 if split else asked
            yield _sentence(text[:given]), _sentence(text[given:asked]), _sentence(text[asked:])


def _sentence(words: list[str]) -> str:
    return " ".join(words).capitalize() + "." if words else ""


def _vocabulary() -> list[str]:
    """Return the words: of one to four syllables, the frequent ones short."""
    rng = np.random.default_rng(7)
    syllables = ["".join(parts) for parts in itertools.product("bcdfglmnprst", "aeiou", ("", "n", "r", "s"))]
    words: dict[str, None] = {}
    while len(words) < _WORDS:
        count = 1 + min(3, int(rng.integers(0, 1 + len(words) // 100)))
        words["".join(syllables[index] for index in rng.integers(0, len(syllables), count))] = None
    return list(words)


def _zipf(rng: np.random.Generator, count: int) -> npt.NDArray[np.intp]:
    """Return `count` numbers of words, number n about 1/(n+1) as often as number 0."""
    weights = np.cumsum(1.0 / np.arange(1, _WORDS + 1))
    drawn: npt.NDArray[np.intp] = np.searchsorted(weights, rng.random(count) * weights[-1])
    return drawn
