"""Measures how fast `prepare` is beside LLaMA-Factory's and TRL's own preparation, and how much memory it takes.

    make bench BENCH=prepare

All get the same rows (Alpaca-like, 10 to 120 words), tokenizer (a byte-level BPE that is trained on the spot), template
(ChatML), and two processes on two processors. Two times are compared, like with like. Preparing alone, without start
and imports: of the peers their own work on the rows, of ours all from the configuration to the published result, with
the tokenizer's loading and the proofs, probes and hashes that a job takes. And the whole programs: from their start
until the rows are prepared, ours until it ends. The ratio on the last line is of preparing alone. The label masks are
compared with LLaMA-Factory's row by row. Memory is the peak of RssAnon (what cannot be dropped under pressure) over all
processes of the program, with a tenth of the rows held back; pages that several of them share are counted for each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tunesmith_stages.tools import llama_cpp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.convert_memory import Sampler
from benchmarks.preparing.alpaca_like import write_base, write_rows
from benchmarks.preparing.ours import Prepared, prepare, read
from benchmarks.preparing.peers import LLAMA_FACTORY, PEERS

PROCESSES = 2
MIB = 2**20


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows that all prepare")
    parser.add_argument("--many", type=int, default=1_000_000, help="rows for the memory, too; 0: leave that out")
    parser.add_argument("--folder", type=Path, help="where to work; needs 3 GB")
    arguments = parser.parse_args()
    llama_cpp()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSES])
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=arguments.folder) as scratch:
        root = Path(scratch)
        write_base(root / "base")
        (root / "rows").mkdir()
        write_rows(root / "rows" / "rows.jsonl", arguments.rows)
        alone = prepare(root, "rows", alone=True)
        print(f"{'Tunesmith, preparing alone':<36} {speed(alone.tokens, alone.seconds, alone.busy)}")
        ours = prepare(root, "rows")
        print(f"{'Tunesmith, the whole program':<36} {speed(ours.tokens, ours.seconds, ours.busy)}")
        rates = peer_rates(root, ours)
        if arguments.many:
            (root / "many").mkdir()
            write_rows(root / "many" / "rows.jsonl", arguments.many)
            few, many = peak(root, "rows"), peak(root, "many")
            print(
                f"memory: {few:.0f} MiB for {arguments.rows:,} rows, {many:.0f} MiB for {arguments.many:,}; "
                f"{many / few:.2f} times as much"
            )
    fastest = {what: max(rates, key=lambda name: rates[name][what]) for what in ("preparing", "whole")}
    whole = ours.tokens / ours.seconds / rates[fastest["whole"]]["whole"]
    print(f"whole programs, imports and all: {whole:.2f} times the tokens per second of {fastest['whole']}'s")
    ratio = alone.tokens / alone.seconds / rates[fastest["preparing"]]["preparing"]
    print(
        f"ratio {ratio:.2f} of tokens per second to {fastest['preparing']}'s, both preparing alone, without start and "
        "imports (goal: at least 2)"
    )


def peak(root: Path, dataset: str) -> float:
    """Prepare; return the peak of memory in MiB, without that of this process, which the sampler counts, too."""
    sampler = Sampler()
    sampler.start()
    prepare(root, dataset, validationFraction="0.1")
    sampler.stop()
    ours = f"{os.getpid()} "
    return sum(size for name, size in sampler.at_peak.items() if not name.startswith(ours)) / MIB


def speed(tokens: int, seconds: float, busy: float) -> str:
    rate = f"{seconds:7.1f} s {tokens / seconds:12,.0f} tokens/s"
    return f"{rate}; {busy:.1f} s of processors, {tokens / busy:,.0f} tokens/s of each"


def peer_rates(root: Path, ours: Prepared) -> dict[str, dict[str, float]]:
    """Return the tokens per second of each peer on the same rows: ``preparing`` alone, and its ``whole`` program."""
    task = {
        "base": str(root / "base"),
        "data": str(root / "rows" / "rows.jsonl"),
        "sequenceLength": 2048,
        "processes": PROCESSES,
        "template": "chatml",
    }
    rates: dict[str, dict[str, float]] = {}
    for peer in PEERS:
        more = {"out": str(root / "labels.jsonl")} if peer is LLAMA_FACTORY else {}
        found = peer.run({**task, **more})
        tokens = found["tokens"]
        seconds, busy = found["whole"]
        rates[peer.name] = {"preparing": tokens / found["seconds"], "whole": tokens / seconds}
        print(f"{peer.name + ', preparing alone':<36} {speed(tokens, found['seconds'], found['busy'])}")
        print(f"{peer.name + ', the whole program':<36} {speed(tokens, seconds, busy)}")
        if found["rows"] != ours.rows:
            sys.exit(f"{peer.name} made {found['rows']} rows, we {ours.rows}")
    compare_labels(ours.folder / "out" / "train.arrow", root / "labels.jsonl")
    return rates


def compare_labels(ours: Path, theirs: Path) -> None:
    """Print how many rows have the same tokens and labels as LLaMA-Factory's.

    After each answer the template writes a line break, which the model never gets to write: it has stopped. We don't
    have it learnt, LLaMA-Factory does; so that one label is left out.
    """
    same = close = rows = 0
    with theirs.open(encoding="utf-8") as file:
        for row, line in zip(read(ours), file, strict=True):
            ids, labels = json.loads(line)
            rows += 1
            same += ids == row["input_ids"] and labels == row["labels"]
            close += ids == row["input_ids"] and labels[:-1] == row["labels"][:-1] and row["labels"][-1] == -100
    print(f"labels like LLaMA-Factory's: {same:,} of {rows:,} rows; but for the line break at the end {close:,}")


if __name__ == "__main__":
    main()
