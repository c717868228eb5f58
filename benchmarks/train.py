"""Measures training beside TRL's SFTTrainer, LLaMA-Factory and ms-swift, on the processor.

    make bench BENCH=train

All train the same weights on the same rows in the same order, with the same batches, schedule, seed and number of
threads, without packing, in one process. Two models: the quickstart's shape, of which all weights are trained, and the
shape of Qwen2.5-0.5B with random weights, with LoRA on all linear layers. Ours is the stage `train` as `tunesmith run`
starts it, with DeepSpeed; the others run as their documentation says, without. Gradient checkpointing is on in all of
them, as it is by default.

Speed is tokens without padding over wall-clock time, from the end of the warm-up steps to the end of the last step, as
each program logs its steps; the time until a program trains is not in it, and is shown apart. Everyone runs in turn,
`--rounds` times. The losses of the first 50 steps must agree within the tolerance of the case, else the benchmark
fails: the programs would not have done the same work. (An adapter begins with random numbers that each program draws in
its own way, and each rounds to BF16 elsewhere; the tolerance allows for that.) The ratio on the last line is the lower
one of both models, to the fastest peer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.preparing.ours import Prepared, prepare
from benchmarks.training import ours
from benchmarks.training.case import HALF_BILLION, TOY, Case, write_inputs
from benchmarks.training.figures import Speed, speed, widest_gap
from benchmarks.training.peers import PEERS, write_peer_rows
from benchmarks.training.watch import Run

from tunesmith_stages.train.order import epoch_order, tokens_per_step
from tunesmith_stages.train.rows import Rows

CORES = 2
COMPARED = 50
"""Steps whose losses are compared."""
OURS = "Tunesmith"
CASES = (
    Case("toy", TOY, full=True, bf16=False, steps=60, warmup=10, rate=1e-3, tolerance=0.005),
    Case("0.5B", HALF_BILLION, full=False, bf16=True, steps=52, warmup=4, rate=2e-4, tolerance=0.05, accumulation=1),
)


def main() -> None:
    """Run the benchmark and print its figures; exit with 1 if the losses do not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[case.name for case in CASES], help="only this one")
    parser.add_argument("--rounds", type=int, default=1, help="how often each program trains")
    parser.add_argument("--threads", type=int, default=CORES, help="threads of each program")
    parser.add_argument("--folder", type=Path, help="where to work; needs 5 GB")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    for peer in PEERS:
        peer.environment.programs()
    ratios: dict[str, tuple[float, str]] = {}
    agreed = True
    for case in CASES:
        if arguments.case in (None, case.name):
            with tempfile.TemporaryDirectory(prefix="train-", dir=arguments.folder) as scratch:
                runs, tokens = compete(case, Path(scratch) / "volume", arguments.rounds, arguments.threads)
            ratios[case.name] = compare(case, runs, tokens)
            agreed &= agree(case, runs)
    name, (ratio, fastest) = min(ratios.items(), key=lambda item: item[1])
    print(f"ratio {ratio:.2f} of tokens per second to {fastest}, the fastest unpacked peer, {name} (goal: at least 1)")
    if not agreed:
        sys.exit(1)


def compete(case: Case, root: Path, rounds: int, threads: int) -> tuple[dict[str, list[Run]], Sequence[int]]:
    """Have everyone train in turn; return their runs, and the tokens of each step."""
    write_inputs(case, root)
    prepared = prepare(root, "rows")
    tokens = share_rows(case, root, prepared)
    environ = {"OMP_NUM_THREADS": str(threads)}
    runs: dict[str, list[Run]] = {OURS: [], **{peer.name: [] for peer in PEERS}}
    for turn in range(rounds):
        runs[OURS].append(ours.train(case, root, prepared, turn, environ))
        for peer in PEERS:
            runs[peer.name].append(peer.train(case, root, turn, environ))
    for name, done in runs.items():
        for run in done:
            if len(run.steps) != case.steps:
                sys.exit(f"{name} took {len(run.steps)} steps instead of {case.steps}")
    return runs, tokens


def share_rows(case: Case, root: Path, prepared: Prepared) -> Sequence[int]:
    """Write the rows for the peers, in the order in which we train on them; return the tokens of each step."""
    rows = Rows(prepared.folder / "out" / "train.arrow")
    order = epoch_order(len(rows), case.seed, 0).tolist()
    with (root / "rows" / "rows.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line) for line in file]
    taken = [rows[index] for index in order]
    tokenized = [{"input_ids": row.ids.tolist(), "labels": row.labels.tolist()} for row in taken]
    write_peer_rows(root, tokenized, [texts[index] for index in order])
    counted: list[int] = tokens_per_step(rows.lengths, case.batch, case.seed, 0).tolist()
    return counted


def compare(case: Case, runs: Mapping[str, Sequence[Run]], tokens: Sequence[int]) -> tuple[float, str]:
    """Print everyone's speed; return the ratio of ours to the fastest peer's, and that peer's name."""
    what = f"{'Full' if case.full else 'LoRA'}, {'BF16' if case.bf16 else 'FP32'}"
    print(f"{case.name}, {what}: {case.steps} steps of {case.micro} x {case.accumulation} rows, {sum(tokens):,} tokens")
    speeds = {name: speed(done, tokens, case.warmup) for name, done in runs.items()}
    for name, found in speeds.items():
        print(f"  {name:<20} {line(found, runs[name])}", flush=True)
    own = speeds.pop(OURS)
    fastest = max(speeds, key=lambda name: speeds[name].rate)
    ratio = own.rate / speeds[fastest].rate
    thrift = own.thrift / max(found.thrift for found in speeds.values())
    print(f"  {ratio:.2f} of the tokens per second of {fastest}; {thrift:.2f} of the best by processor time")
    return ratio, fastest


def line(found: Speed, done: Sequence[Run]) -> str:
    """Return one program's figures, for people."""
    before = sum(run.steps[0].seconds for run in done) / len(done)
    whole = sum(run.seconds for run in done) / len(done)
    return (
        f"{found.rate:8.1f} tokens/s; {found.thrift:8.1f} tokens per second of processor time; "
        f"first step after {before:.0f} s, the whole program {whole:.0f} s"
    )


def agree(case: Case, runs: Mapping[str, Sequence[Run]]) -> bool:
    """Print how far the losses of the first steps are apart; return whether that is within the tolerance."""
    first = {name: done[0] for name, done in runs.items()}
    gap, step, name = widest_gap(first, COMPARED)
    loss = first[OURS].steps
    print(
        f"  losses of the first {COMPARED} steps, from {loss[0].loss:.3f} to {loss[COMPARED - 1].loss:.3f}: at most "
        f"{gap:.5f} apart ({name}, step {step}); allowed: {case.tolerance}",
        flush=True,
    )
    return gap <= case.tolerance


if __name__ == "__main__":
    main()
