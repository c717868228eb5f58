"""Builds what `train` reads: a tiny random base, prepared rows, and the stage.json of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith_stages.contract import Input, StageConfig, StageName, UnitConfig

VOCABULARY = 96


def tiny_llama(*, vocabulary: int = VOCABULARY, **more: Any) -> Any:
    """Return a Llama of two layers with random weights (about 40,000 parameters); `more` goes to its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        **more,
    )
    return LlamaForCausalLM(config)


def write_base(folder: Path, *, tied: bool = False, vocabulary: int = VOCABULARY, shards: bool = False) -> Path:
    """Write a :func:`tiny_llama` in BF16."""
    import torch

    end = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": None}
    model = tiny_llama(vocabulary=vocabulary, tie_word_embeddings=tied, **end).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="40KB" if shards else "1GB")
    return folder


def write_rows(path: Path, rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch: int = 7) -> None:
    """Write rows of (token ids, labels) as an Arrow IPC file of several record batches."""
    import pyarrow as pa

    lists = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", lists), ("labels", lists)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for first in range(0, len(rows), batch):
            part = rows[first : first + batch]
            columns = [pa.array([list(row[side]) for row in part], lists) for side in (0, 1)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def random_rows(count: int, *, seed: int = 0, vocabulary: int = VOCABULARY) -> list[tuple[list[int], list[int]]]:
    """Return rows of 6 to 24 tokens that repeat a short pattern, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(rng.integers(6, 25))
        pattern = rng.integers(3, vocabulary, 3)
        ids = np.resize(pattern, length).tolist()
        rows.append((ids, [-100] * 3 + ids[3:]))
    return rows


def packed_rows(
    samples: int, *, capacity: int, seed: int = 0, vocabulary: int = VOCABULARY
) -> list[tuple[list[int], list[int], list[int]]]:
    """Return random samples packed into rows, simply one after the other: ids, labels, and length of each sample."""
    rows: list[tuple[list[int], list[int], list[int]]] = [([], [], [])]
    for ids, labels in random_rows(samples, seed=seed, vocabulary=vocabulary):
        if len(rows[-1][0]) + len(ids) > capacity:
            rows.append(([], [], []))
        rows[-1][0].extend(ids)
        rows[-1][1].extend(labels)
        rows[-1][2].append(len(ids))
    return rows


def write_packed_rows(path: Path, rows: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]]) -> None:
    """Write packed rows as an Arrow IPC file."""
    import pyarrow as pa

    lists = pa.list_(pa.int32())
    names = ("input_ids", "labels", "lengths")
    columns = [pa.array([list(row[side]) for row in rows], lists) for side in range(3)]
    batch = pa.record_batch(dict(zip(names, columns, strict=True)))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def write_prepared(
    folder: Path,
    *,
    train: int = 22,
    validation: int = 0,
    vocabulary: int = VOCABULARY,
    packed_to: int | None = None,
) -> Path:
    """Write a prepared folder with random samples and eight probes; `packed_to`: packed into rows of so many tokens."""
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate({"train": train, "validation": validation}.items()):
        path = folder / f"{name}.arrow"
        if packed_to and count:
            write_packed_rows(path, packed_rows(count, capacity=packed_to, seed=seed, vocabulary=vocabulary))
        elif count:
            write_rows(path, random_rows(count, seed=seed, vocabulary=vocabulary))
    tokens = {
        "endOfTurn": {"id": 2, "text": "</s>"},
        "bosTokenId": None,
        "eosTokenId": 2,
        "vocabSize": vocabulary,
        "addsBos": False,
    }
    (folder / "tokens.json").write_text(json.dumps(tokens))
    prompts = [{"messages": [], "text": "", "ids": ids} for ids, _ in random_rows(8, seed=2, vocabulary=vocabulary)]
    (folder / "probes.json").write_text(json.dumps({"prompts": prompts}))
    return folder


Sample = tuple[Sequence[int], Sequence[int]]
"""Token ids and labels."""


def random_pairs(count: int, *, seed: int = 0, vocabulary: int = VOCABULARY) -> list[tuple[Sample, Sample]]:
    """Return pairs of samples: after the same prompt the chosen one repeats it, and the rejected one is shorter noise.

    Only the end of each is labelled.
    """
    rng = np.random.default_rng([seed, 1])
    pairs = []
    for _ in range(count):
        prompt = rng.integers(3, vocabulary, int(rng.integers(3, 9))).tolist()
        noise = rng.integers(3, vocabulary, int(rng.integers(1, 5))).tolist()
        chosen, rejected = ((prompt + answer, [-100] * len(prompt) + answer) for answer in (prompt[:], noise))
        pairs.append((chosen, rejected))
    return pairs


def write_pairs(path: Path, pairs: Sequence[tuple[Sample, Sample]], *, batch: int = 7) -> None:
    """Write (chosen, rejected) samples as `prepare` does for DPO and ORPO."""
    names = ("input_ids", "labels", "rejected_input_ids", "rejected_labels")
    _write_columns(path, {name: [list(pair[n // 2][n % 2]) for pair in pairs] for n, name in enumerate(names)}, batch)


def write_judged(path: Path, rows: Sequence[tuple[Sample, bool]], *, batch: int = 7) -> None:
    """Write (sample, desirable) rows as `prepare` does for KTO."""
    columns: dict[str, list[Any]] = {
        name: [list(sample[side]) for sample, _ in rows] for side, name in enumerate(("input_ids", "labels"))
    }
    _write_columns(path, {**columns, "desirable": [desirable for _, desirable in rows]}, batch)


def _write_columns(path: Path, columns: Mapping[str, list[Any]], batch: int) -> None:
    import pyarrow as pa

    lists = pa.list_(pa.int32())
    types = {name: pa.bool_() if name == "desirable" else lists for name in columns}
    table = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)


def write_preferences(folder: Path, method: str, *, train: int = 22, validation: int = 0) -> Path:
    """Write a prepared folder for DPO, ORPO or KTO; of its pairs KTO has the chosen and the rejected one in turn."""
    write_prepared(folder, train=0)
    for seed, (name, count) in enumerate({"train": train, "validation": validation}.items()):
        pairs, path = random_pairs(count, seed=seed), folder / f"{name}.arrow"
        if count and method == "KTO":
            write_judged(path, [(pair[number % 2], number % 2 == 0) for number, pair in enumerate(pairs)])
        elif count:
            write_pairs(path, pairs)
    return folder


PARAMS: Mapping[str, Any] = {
    "finetuningType": "LoRA",
    "lora": {"rank": 4, "alpha": 8, "dropout": "0.0", "targetModules": ["AllLinear"]},
    "precision": "BF16",
    "learningRate": "1e-2",
    "lrSchedule": "Cosine",
    "warmupSteps": 1,
    "weightDecay": "0.0",
    "maxGradNorm": "1.0",
    "numTrainEpochs": "2",
    "maxSteps": None,
    "globalBatchSize": 4,
    "zeroStage": 2,
    "gradientCheckpointing": False,
    "seed": 3,
}

RUNTIME: Mapping[str, Any] = {
    "gpusPerNode": 0,
    "processesPerNode": 2,
    "perDeviceTrainBatchSize": 2,
    "gradientAccumulationSteps": 1,
    "perDeviceEvalBatchSize": 2,
    "loggingSteps": 1,
    "evalSteps": None,
    "saveSteps": 4,
    "keep": 2,
}


def train_config(
    volume: Path,
    *,
    key: str = "k",
    attempt: str = "1",
    params: Mapping[str, Any] | None = None,
    runtime: Mapping[str, Any] | None = None,
) -> StageConfig:
    """Return the input of a training on ``base/`` and ``prepared/`` of a volume."""
    unit = UnitConfig(
        name="train",
        key=key,
        params={**PARAMS, **(params or {})},
        inputs={"base": Input("base", "b" * 64), "prepared": Input("prepared", "p" * 64)},
    )
    return StageConfig(StageName.TRAIN, "test", str(volume), attempt, (unit,), {**RUNTIME, **(runtime or {})})
