"""Measures training on one GPU beside plain TRL with DeepSpeed, on the same model, rows and settings.

    make bench BENCH=train_gpu

The weights are random and the rows made up, so nothing is fetched. TRL and DeepSpeed are those of the Python that
``--peer`` names, by default of this one; without them ours is measured alone. Of each run there are

- tokens per second, without padding, from the end of the first steps to that of the last;
- the most memory that tensors took on the GPU;
- MFU: the share of the GPU's peak that goes into the model. It is tokens per second times the operations that each
  token needs by the model's definition, over the peak (Chowdhery et al., 2022, "PaLM", appendix B,
  https://arxiv.org/abs/2204.02311): 6 for each weight that it is multiplied with, of which 2 are left out where the
  weight is frozen, and 12 for each layer, hidden number and token of the row that attention looks at. What is computed
  twice for want of memory counts once.

Packed rows are trained on by ours alone: without FlashAttention TRL lets the samples of a row see each other.

The ratio on the last line is the lowest of all cases in tokens per second; beside it stands the highest in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith_stages.contract import StageName
from tunesmith_stages.volume import Volume

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "tests")]

from benchmarks.training.watch import Run, watch  # noqa: E402

from support.gpu_shapes import SHAPES, Shape, random_rows, write_volume  # noqa: E402
from support.prepared import train_config  # noqa: E402

TOKENS, MICRO, ACCUMULATION, WARMUP, STEPS = 2048, 4, 2, 5, 25
ROWS = MICRO * ACCUMULATION * STEPS
PACKED = 2
"""Samples in a packed row."""
LORA = {"r": 16, "lora_alpha": 32}
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12, "4090": 165e12}
"""Operations a second in BF16 without sparsity, of the SXM kind where there are several, by NVIDIA's data sheets
(https://www.nvidia.com/en-us/data-center/h100/, and so on)."""


@dataclass(frozen=True)
class Case:
    """A training that both do."""

    shape: str
    kind: Literal["LoRA", "QLoRA", "Full"]
    zero_stage: int = 2
    offload: bool = False
    """Optimizer and weights lie in the machine's memory."""
    packed: bool = False
    """The same samples, two in a row."""

    @property
    def full(self) -> bool:
        """Whether all weights are trained."""
        return self.kind == "Full"

    @property
    def name(self) -> str:
        """What people call it."""
        kind = "all weights" if self.full else self.kind
        more = [word for word, given in (("offload", self.offload), ("packed", self.packed)) if given]
        return ", ".join([self.shape, kind, f"ZeRO {self.zero_stage}", *more])


@dataclass(frozen=True)
class Measured:
    """What a run came to."""

    rate: float
    """Tokens per second."""
    memory: float
    """Bytes."""


CASES = (
    Case("0.5B", "LoRA"),
    Case("0.5B", "LoRA", packed=True),
    Case("0.5B", "Full"),
    Case("0.5B", "Full", zero_stage=3),
    Case("1.5B", "LoRA"),
    Case("1.5B", "QLoRA"),
    Case("1.5B", "Full", zero_stage=2, offload=True),
    Case("1.5B", "Full", zero_stage=3, offload=True),
    Case("8B", "LoRA"),
    Case("8B", "QLoRA"),
)
"""LoRA of 8B takes 20 GB; what a GPU has no memory for can be left out with ``--shapes``."""


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=sys.executable, help="a Python with TRL, DeepSpeed and bitsandbytes")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.5B", "1.5B", "8B"])
    parser.add_argument("--folder", type=Path, help="where to work; needs 20 GB")
    arguments = parser.parse_args()
    device = gpu_name()
    if device is None:
        print("nothing is measured: PyTorch sees no GPU here, and this compares trainings on one")
        return
    peer = arguments.peer if has_trl(arguments.peer) else None
    alone = "" if peer else f"; ours alone, for {arguments.peer} lacks TRL, DeepSpeed or bitsandbytes"
    print(f"on one {device}{alone}")
    rates, memories = [], []
    for case in (case for case in CASES if case.shape in arguments.shapes):
        with tempfile.TemporaryDirectory(prefix="train-gpu-", dir=arguments.folder) as scratch:
            root = Path(scratch)
            write_volume(root, SHAPES[case.shape], rows=ROWS, tokens=TOKENS)
            ours = train_ours(case, root)
            show(case, "ours", ours, device)
            if peer and not case.packed:
                theirs = train_theirs(case, root, peer)
                show(case, "TRL with DeepSpeed", theirs, device)
                rates.append(ours.rate / theirs.rate)
                memories.append(ours.memory / theirs.memory)
    if rates:
        goals = "(goal: at least 1.15 of the speed, at most 0.7 of the memory)"
        print(
            f"ratio {min(rates):.2f} of tokens per second to TRL with DeepSpeed, {max(memories):.2f} of memory {goals}"
        )


def gpu_name() -> str | None:
    """Return what the first GPU is called; None: there is none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def has_trl(python: str) -> bool:
    """Return whether a Python has what the peer needs."""
    program = "import trl, deepspeed, bitsandbytes"
    return subprocess.run([python, "-c", program], capture_output=True, check=False).returncode == 0


def mfu(shape: Shape, case: Case, rate: float, device: str) -> float | None:
    """Return the share of the GPU's peak that goes into the model; None: the peak of this GPU is not known."""
    peak = next((peak for name, peak in PEAKS.items() if name in device), None)
    operations = (6 if case.full else 4) * shape.computed + 12 * shape.layers * shape.hidden * mean_length()
    return None if peak is None else rate * operations / peak


def mean_length() -> float:
    """Return the tokens of a row, on average."""
    return TOKENS * 3 / 4


def show(case: Case, who: str, measured: Measured, device: str) -> None:
    """Print what a run came to."""
    share = mfu(SHAPES[case.shape], case, measured.rate, device)
    words = "unknown" if share is None else f"{share:.1%}"
    print(f"{case.name}, {who}: {measured.rate:,.0f} tokens/s, {measured.memory / 1e9:.1f} GB, MFU {words}", flush=True)


def measured(run: Run, memory: float) -> Measured:
    """Return the speed of a run after its first steps; rows are as long as they are on average."""
    first, last = run.steps[WARMUP - 1], run.steps[STEPS - 1]
    tokens = sum(len(ids) for ids, _ in random_rows(ROWS, TOKENS)) * (STEPS - WARMUP) / STEPS
    return Measured(tokens / (last.seconds - first.seconds), memory)


def train_ours(case: Case, root: Path) -> Measured:
    """Train with the stage `train`."""
    params: dict[str, Any] = {
        "finetuningType": case.kind,
        "lora": None if case.full else {"rank": 16, "alpha": 32, "dropout": "0", "targetModules": ["AllLinear"]},
        "learningRate": "1e-4",
        "lrSchedule": "Cosine",
        "weightDecay": "0",
        "numTrainEpochs": "1",
        "globalBatchSize": MICRO * ACCUMULATION,
        "zeroStage": case.zero_stage,
        "gradientCheckpointing": True,
    }
    runtime = {
        "gpusPerNode": 1,
        "perDeviceTrainBatchSize": MICRO,
        "gradientAccumulationSteps": ACCUMULATION,
        "saveSteps": None,
        "offloadOptimizer": case.offload,
        "offloadParameters": case.offload and case.zero_stage == 3,
    }
    if case.packed:  # half as many rows of twice as many tokens: a step takes in the same samples
        params["globalBatchSize"] //= PACKED
        runtime["gradientAccumulationSteps"] = ACCUMULATION // PACKED
    volume = Volume(root / "packed" if case.packed else root)
    config = train_config(volume.root, params=params, runtime=runtime)
    (root / "train.json").write_text(config.to_json(), encoding="utf-8")
    key = config.units[0].key
    log = volume.attempt(StageName.TRAIN, key, config.attempt) / "logs" / "metrics.jsonl"
    command = [sys.executable, "-m", "tunesmith_stages.train", "--config", str(root / "train.json")]
    run = watch(command, log, {}, root / "train.log")
    result = volume.result(StageName.TRAIN, key)
    if result is None:
        raise SystemExit(f"the training left no result; see {root / 'train.log'}")
    return measured(run, result.numbers["peakGpuMemory"])


def zero_of(case: Case) -> dict[str, Any]:
    """Return how DeepSpeed is to share out what is trained, in its own words."""
    in_memory = {"device": "cpu", "pin_memory": True}
    parts = ["offload_optimizer", *(["offload_param"] if case.zero_stage == 3 else [])] if case.offload else []
    return {"stage": case.zero_stage, **dict.fromkeys(parts, in_memory)}


def train_theirs(case: Case, root: Path, python: str) -> Measured:
    """Train with TRL and DeepSpeed, started by torchrun."""
    rows = [
        {"input_ids": ids, "completion_mask": [int(label != -100) for label in labels]}
        for ids, labels in random_rows(ROWS, TOKENS)
    ]
    (root / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    settings: Mapping[str, Any] = {
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "max_grad_norm": 1.0,
        "num_train_epochs": 1,
        "per_device_train_batch_size": MICRO,
        "gradient_accumulation_steps": ACCUMULATION,
        "gradient_checkpointing": True,
        "seed": 3,
    }
    task = {
        "base": str(root / "base"),
        "rows": str(root / "rows.json"),
        "log": str(root / "trl.jsonl"),
        "output": str(root / "trl"),
        "memory": str(root / "trl.memory"),
        "zero": zero_of(case),
        "lora": None if case.full else LORA,
        "quantized": case.kind == "QLoRA",
        "settings": settings,
    }
    program = Path(__file__).parent / "gpu" / "trl_deepspeed.py"
    command = [
        python,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=1",
        str(program),
        json.dumps(task),
    ]
    run = watch(command, root / "trl.jsonl", {"HF_HUB_OFFLINE": "1"}, root / "trl.log")
    return measured(run, float((root / "trl.memory").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
