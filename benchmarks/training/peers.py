"""The peers of `train`, each in an environment of its own, started as its documentation says.

None uses DeepSpeed: on one process of a machine without GPU none of them does unless it is told to. Rows come in our
order and are not shuffled, so that the losses of a step can be compared. What is no setting of the comparison is left
as it is by default.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.preparing.peers import LLAMA_FACTORY, TRL, Environment
from benchmarks.training.case import Case
from benchmarks.training.watch import Run, watch

_HERE = Path(__file__).parent
_OFFLINE = {"HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "USE_HF": "1", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Peer:
    """A program that trains."""

    environment: Environment
    log: str
    """File in its output folder to which it writes a line for each step."""
    command: Callable[[Path, Case, Path, Path], Sequence[str | Path]]
    """Makes its command line of its environment's programs, the case, the folder of the inputs, and its output."""

    @property
    def name(self) -> str:
        """Its name and version."""
        return self.environment.name

    def train(self, case: Case, root: Path, turn: int, environ: Mapping[str, str]) -> Run:
        """Train on the inputs in `root`."""
        output = root / f"{self.name.split()[0]}-{turn}"
        output.mkdir()
        command = self.command(self.environment.programs(), case, root, output)
        found = {**environ, **_OFFLINE, "HF_HOME": str(root / "cache"), "MODELSCOPE_CACHE": str(root / "cache")}
        return watch(command, output / self.log, found, root / f"{output.name}.log")


def write_peer_rows(root: Path, tokenized: Sequence[Mapping[str, Any]], texts: Sequence[Mapping[str, str]]) -> None:
    """Write the rows in the order of training: tokenized, as messages, and in LLaMA-Factory's form."""
    talks = [{"messages": _messages(row)} for row in texts]
    for name, rows in (("tokenized", tokenized), ("messages", talks)):
        with (root / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    python = LLAMA_FACTORY.environment.programs() / "python"
    made = [python, _HERE / "peer_rows.py", root / "tokenized.jsonl", root / "dataset"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _messages(row: Mapping[str, str]) -> list[dict[str, str]]:
    asked = "\n".join(part for part in (row["instruction"], row["input"]) if part)
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]


def _settings(case: Case) -> dict[str, Any]:
    """Return transformers' arguments, which all of them take."""
    return {
        "learning_rate": case.rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": case.rise,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "num_train_epochs": 1,
        "per_device_train_batch_size": case.micro,
        "gradient_accumulation_steps": case.accumulation,
        "seed": case.seed,
    }


def _trl(programs: Path, case: Case, root: Path, output: Path) -> Sequence[str | Path]:
    task = {
        "base": str(root / "base"),
        "rows": str(root / "tokenized.jsonl"),
        "output": str(output),
        "log": str(output / "log.jsonl"),
        "bf16": case.bf16,
        "lora": None if case.full else {"r": case.rank, "lora_alpha": case.alpha, "lora_dropout": 0.0},
        "settings": _settings(case),
    }
    return [programs / "python", _HERE / "peer_trl.py", json.dumps(task)]


def _llama_factory(programs: Path, case: Case, root: Path, output: Path) -> Sequence[str | Path]:
    lora = {"lora_target": "all", "lora_rank": case.rank, "lora_alpha": case.alpha, "lora_dropout": 0.0}
    task = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(root / "base"),
        "dataset": "rows",
        "tokenized_path": str(root / "dataset"),
        "template": "chatml",
        "disable_shuffling": True,
        "finetuning_type": "full" if case.full else "lora",
        **({} if case.full else lora),
        "output_dir": str(output),
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": case.bf16,
        **_settings(case),
    }
    (output / "task.yaml").write_text(json.dumps(task))
    return [programs / "llamafactory-cli", "train", output / "task.yaml"]


def _swift(programs: Path, case: Case, root: Path, output: Path) -> Sequence[str | Path]:
    lora = {"target_modules": "all-linear", "lora_rank": case.rank, "lora_alpha": case.alpha, "lora_dropout": 0.0}
    task = {
        "model": root / "base",
        "model_type": case.shape["model_type"],
        "external_plugins": _HERE / "swift_template.py",
        "template": "chatml_to_the_end",
        "dataset": root / "messages.jsonl",
        "split_dataset_ratio": 0,
        "dataset_shuffle": "false",
        "train_dataloader_shuffle": "false",
        "tuner_type": "full" if case.full else "lora",
        **({} if case.full else lora),
        "torch_dtype": "bfloat16" if case.bf16 else "float32",
        "bf16": str(case.bf16).lower(),
        "use_cpu": "true",
        "output_dir": output,
        "add_version": "false",
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        **_settings(case),
    }
    return [programs / "swift", "sft", *(str(word) for name, value in task.items() for word in (f"--{name}", value))]


_SWIFT = Environment("ms-swift 4.6.0", ("ms-swift==4.6.0", "torch==2.15.0", "transformers==5.19.0"))
PEERS: Sequence[Peer] = (
    Peer(TRL.environment, "log.jsonl", _trl),
    Peer(LLAMA_FACTORY.environment, "trainer_log.jsonl", _llama_factory),
    Peer(_SWIFT, "logging.jsonl", _swift),
)
