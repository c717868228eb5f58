"""Measures packing beside TRL's own (``packing=True``, best fit decreasing), on the same rows.

    make bench BENCH=packing

Three things: packing tokenized samples, from a file of them to one of packed rows; preparing with packing, from text to
packed rows, in two processes on two processors; training on what comes out, a small Llama on one thread, forward and
backward. Preparing is compared as in ``benchmarks/prepare.py``: without start and imports, of TRL its own work on the
rows, of ours all from the configuration to the published result; and the whole programs. Padding and what is left empty
count for nothing: tokens are those of the samples. The ratio on the last line is the lower one of packing alone and of
preparing with packing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from tunesmith_stages.prepare import writing
from tunesmith_stages.tools import llama_cpp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.preparing.alpaca_like import write_base, write_rows
from benchmarks.preparing.ours import Prepared, prepare, processor_time
from benchmarks.preparing.peers import TRL

PROCESSES = 2
SEQUENCE_LENGTH = 1024
BATCH, STEPS = 4, 8
"""Rows that are trained on at once, and how often."""


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of data")
    parser.add_argument("--folder", type=Path, help="where to work; needs 1 GB")
    arguments = parser.parse_args()
    llama_cpp()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSES])
    with tempfile.TemporaryDirectory(prefix="packing-", dir=arguments.folder) as scratch:
        root = Path(scratch)
        write_base(root / "base")
        (root / "rows").mkdir()
        write_rows(root / "rows" / "rows.jsonl", arguments.rows)
        plain = prepare(root, "rows", sequenceLength=SEQUENCE_LENGTH)
        packed = prepare(root, "rows", alone=True, sequenceLength=SEQUENCE_LENGTH, packing=True)
        whole = prepare(root, "rows", sequenceLength=SEQUENCE_LENGTH, packing=True)
        task = {
            "base": str(root / "base"),
            "data": str(root / "rows" / "rows.jsonl"),
            "sequenceLength": SEQUENCE_LENGTH,
            "processes": PROCESSES,
            "packing": True,
            "batch": BATCH,
            "steps": STEPS,
        }
        theirs = TRL.run(task)
        seconds, busy = pack(plain, root / "again.arrow")
        trained = train(root / "base", packed)
    tokens = packed.tokens
    print(f"fill: ours {fill(tokens, packed.rows)}, TRL's {fill(theirs['tokens'], theirs['rows'])}")
    ratios = {
        what: compare(what, (tokens, *ours), (theirs["tokens"], *others))
        for what, ours, others in (
            ("packing alone", (seconds, busy), theirs["packing"]),
            ("preparing and packing", (packed.seconds, packed.busy), (theirs["seconds"], theirs["busy"])),
            ("the whole programs", (whole.seconds, whole.busy), theirs["whole"]),
        )
    }
    compare("training on packed rows", trained, tuple(theirs["training"]))
    least = min(("packing alone", "preparing and packing"), key=ratios.__getitem__)
    print(f"ratio {ratios[least]:.2f} of tokens per second to TRL 1.16.0's, {least} (goal: at least 1)")


def fill(tokens: int, rows: int) -> str:
    return f"{tokens / (rows * SEQUENCE_LENGTH):.4f} of {rows:,} rows"


Figures = tuple[float, float, float]
"""Tokens, seconds, and seconds of processor time."""


def compare(what: str, ours: Figures, theirs: Figures) -> float:
    """Print both tokens per second; return the ratio."""
    rates = [tokens / seconds for tokens, seconds, _ in (ours, theirs)]
    print(
        f"{what:<24} {rates[0]:12,.0f} tokens/s, TRL {rates[1]:12,.0f}; ratio {rates[0] / rates[1]:.2f}; "
        f"processor time {ours[2]:.2f} s, TRL {theirs[2]:.2f} s"
    )
    return rates[0] / rates[1]


def pack(plain: Prepared, path: Path) -> tuple[float, float]:
    """Pack the rows of a run that did not; return the seconds and those of processor time."""
    choice = writing.Choice(lambda start, stop: np.ones(stop - start, np.uint32), [slice(0, plain.rows)])
    began, busy = time.perf_counter(), processor_time()
    writing.write_rows(plain.folder / "out" / "train.arrow", choice, path, SEQUENCE_LENGTH)
    return time.perf_counter() - began, processor_time() - busy


def train(base: Path, packed: Prepared) -> Figures:
    """Take packed rows forward and backward through a small model; return tokens and seconds."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith_stages.train.order import MicroBatches, Split
    from tunesmith_stages.train.rows import Rows
    from tunesmith_stages.train.trainer import collate, token_loss

    torch.set_num_threads(1)
    torch.manual_seed(1)
    rows = Rows(packed.folder / "out" / "train.arrow")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    model.config.use_cache = False
    batches = islice(MicroBatches(len(rows), Split(1, BATCH, 1), 0, 1), STEPS)
    tokens = 0
    began, busy = time.perf_counter(), processor_time()
    for indices in batches:
        batch = collate([rows[index] for index in indices], packed=True)
        labels = batch.pop("labels")
        token_loss(model(**batch), labels, (labels != -100).sum()).backward()
        model.zero_grad()
        tokens += int(sum(rows.lengths[indices]))
    return tokens, time.perf_counter() - began, processor_time() - busy


if __name__ == "__main__":
    main()
