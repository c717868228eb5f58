"""Measures the memory of the stage `convert` on a model of random weights in several files.

Run it with the stages' environment: ``python benchmarks/convert_memory.py [--layers N] [--folder F]``. It writes a
Llama-shaped base (bfloat16) and a LoRA adapter, runs the stage's merge and llama.cpp's converter as the stage does, and
samples the anonymous memory (RssAnon: what can't be dropped under pressure, unlike mapped files) of the whole process
tree. The bound is three times the largest tensor plus 1.5 GiB. The last line is peak over bound.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith_stages.contract import Input, StageConfig, StageName, UnitConfig
from tunesmith_stages.convert.safetensors_file import INDEX, SafetensorsWriter, TensorInfo
from tunesmith_stages.program import Progress, Work
from tunesmith_stages.tools import llama_cpp
from tunesmith_stages.volume import Volume

GIB = 2**30
HIDDEN, INNER, VOCAB, HEADS, KEY_HEADS, RANK = 2048, 5632, 60000, 16, 4, 16
END = 257
"""The control token: after 256 bytes and one merge."""
SHARD = 400 * 2**20
PERIOD = 0.02
"""Seconds between two samples."""


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Llama model."""
    keys = HIDDEN // HEADS * KEY_HEADS
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name, shape in projections(keys).items():
            found[f"{prefix}.{name}.weight"] = shape
        found[f"{prefix}.input_layernorm.weight"] = (HIDDEN,)
        found[f"{prefix}.post_attention_layernorm.weight"] = (HIDDEN,)
    found["model.norm.weight"] = (HIDDEN,)
    found["lm_head.weight"] = (VOCAB, HIDDEN)
    return found


def projections(keys: int) -> dict[str, tuple[int, int]]:
    return {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (keys, HIDDEN),
        "self_attn.v_proj": (keys, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }


def shards_of(tensors: dict[str, tuple[int, ...]]) -> list[list[TensorInfo]]:
    shards: list[list[TensorInfo]] = [[]]
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        if shards[-1] and sum(info.size for info in shards[-1]) + size > SHARD:
            shards.append([])
        shards[-1].append(TensorInfo(name, "BF16", shape, 0, size))
    return shards


def random_weights(size: int, generator: np.random.Generator) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Yield bfloat16 numbers of about 0.01, in pieces."""
    for first in range(0, size, 1 << 24):
        count = min(1 << 24, size - first) // 2
        yield (generator.integers(0, 1 << 10, count, np.uint16) + np.uint16(0x3A00)).view(np.uint8)


def write_base(folder: Path, layers: int) -> None:
    """Write config, tokenizer and weights."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    shards = shards_of(shapes(layers))
    where: dict[str, str] = {}
    for number, infos in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        where |= {info.name: file for info in infos}
        with SafetensorsWriter(folder / file, infos, {"format": "pt"}) as writer:
            for info in infos:
                writer.write(info.name, random_weights(info.size, generator))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
        "eos_token_id": END,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer with one control token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, "ab"]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_trained(folder: Path, layers: int) -> None:
    """Write an adapter on every projection."""
    folder.mkdir()
    generator = np.random.default_rng(1)
    infos = []
    for layer in range(layers):
        for name, (rows, columns) in projections(HIDDEN // HEADS * KEY_HEADS).items():
            prefix = f"base_model.model.model.layers.{layer}.{name}.lora_"
            infos.append(TensorInfo(f"{prefix}A.weight", "F32", (RANK, columns), 0, 4 * RANK * columns))
            infos.append(TensorInfo(f"{prefix}B.weight", "F32", (rows, RANK), 0, 4 * RANK * rows))
    with SafetensorsWriter(folder / "adapter_model.safetensors", infos, {"format": "pt"}) as writer:
        for info in infos:
            values = generator.normal(0, 0.001, info.size // 4).astype(np.float32)
            writer.write(info.name, [values.view(np.uint8)])
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "reference.json").write_text('{"prompts": []}')


def write_prepared(folder: Path) -> None:
    """Write what the stage wants to know; without probes, since random weights have no reference."""
    folder.mkdir()
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}<|end|>{% endfor %}")
    tokens = {"endOfTurn": {"id": END, "text": "<|end|>"}, "bosTokenId": None, "eosTokenId": END, "addsBos": False}
    (folder / "tokens.json").write_text(json.dumps({**tokens, "vocabSize": VOCAB}))
    (folder / "probes.json").write_text('{"prompts": []}')


class Sampler(threading.Thread):
    """Follows the anonymous memory of this process and all that it starts."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.at_peak: dict[str, int] = {}
        self._done = threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        while not self._done.wait(PERIOD):
            now = dict(self._tree(str(Path("/proc/self").resolve().name)))
            if sum(now.values()) > self.peak:
                self.peak, self.at_peak = sum(now.values()), now

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        self.join()

    def _tree(self, process: str) -> Iterator[tuple[str, int]]:
        with contextlib.suppress(OSError):
            folder = Path("/proc") / process
            status = (folder / "status").read_text()
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[-60:].strip()
            children = " ".join(path.read_text() for path in folder.glob("task/*/children")).split()
            anonymous = next((line for line in status.splitlines() if line.startswith("RssAnon")), "RssAnon: 0 kB")
            yield f"{process} {name}", int(anonymous.split()[1]) * 1024
            for child in children:
                yield from self._tree(child)


def convert(root: Path) -> None:
    """Run the stage on what was written below `root`."""
    from tunesmith_stages.convert.stage import make

    inputs = {role: Input(role, "0" * 64) for role in ("base", "prepared", "trained")}
    unit = UnitConfig("convert", "0" * 64, {"outType": "BF16"}, inputs)
    config = StageConfig(StageName.CONVERT, "benchmark", str(root), "1", (unit,))
    folder = root / "attempt"
    for name in ("out", "logs"):
        (folder / name).mkdir(parents=True)
    with contextlib.redirect_stdout(None):
        made = make(Work(config, unit, Volume(root), folder, Progress(config.stage, unit.name, folder)))
    print(f"outputs: {dict(made.outputs)}", file=sys.stderr)


def main() -> None:
    """Print the peak, the bound and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16, help="decoder layers (16: 1.8 GiB in 6 files)")
    parser.add_argument("--folder", type=Path, help="where to work; needs three times the model's size")
    arguments = parser.parse_args()
    llama_cpp()
    root = Path(tempfile.mkdtemp(prefix="convert-memory-", dir=arguments.folder))
    try:
        write_base(root / "base", arguments.layers)
        write_trained(root / "trained", arguments.layers)
        write_prepared(root / "prepared")
        sizes = [2 * math.prod(shape) for shape in shapes(arguments.layers).values()]
        sampler = Sampler()
        sampler.start()
        began = time.monotonic()
        convert(root)
        seconds = time.monotonic() - began
        sampler.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    bound = 3 * max(sizes) + 1.5 * GIB
    files = len(shards_of(shapes(arguments.layers)))
    print(f"model {sum(sizes) / GIB:.2f} GiB in {files} files, largest tensor {max(sizes) / GIB:.3f} GiB")
    print(f"convert took {seconds:.1f} s")
    for process, size in sampler.at_peak.items():
        print(f"at the peak: {size / GIB:.3f} GiB  {process}")
    print(f"peak {sampler.peak / GIB:.3f} GiB, bound {bound / GIB:.3f} GiB")
    print(f"ratio {sampler.peak / bound:.3f} of the peak to the bound (3 x the largest tensor + 1.5 GiB)")


if __name__ == "__main__":
    main()
