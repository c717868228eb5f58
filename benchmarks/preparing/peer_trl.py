"""Prepares, and packs, a dataset as TRL's SFTTrainer does when it is made; run by :mod:`.peers`.

The time is that of the trainer's own work on the rows alone: without imports, reading, or bringing them into its form.
``whole`` is from the start of the program to there, with all that.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import tempfile
import time
from typing import Any


def main() -> None:
    """Read the task, prepare, and print seconds and tokens of preparing and of packing."""
    import trl.trainer.sft_trainer as sft  # type: ignore[import-not-found]
    from datasets import load_dataset  # type: ignore[import-not-found]
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    task: dict[str, Any] = json.loads(sys.argv[1])
    rows = load_dataset("json", data_files=task["data"], split="train")
    rows = rows.map(conversation, remove_columns=rows.column_names, num_proc=task["processes"])
    times: dict[str, tuple[float, float]] = {}
    time_calls(sft.SFTTrainer, "_prepare_dataset", times)
    time_calls(sft, "pack_dataset", times)
    with tempfile.TemporaryDirectory() as folder:
        settings = sft.SFTConfig(
            output_dir=folder,
            max_length=task["sequenceLength"],
            packing=task.get("packing", False),
            dataset_num_proc=task["processes"],
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=task.get("batch", 8),
            report_to="none",
        )
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(task["base"]))
        tokenizer = AutoTokenizer.from_pretrained(task["base"])
        trainer = sft.SFTTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer)
        whole = time.time() - task["began"], processor_time()
        prepared = trainer.train_dataset.with_format("arrow")[:]
        training = train(trainer, task["steps"]) if "steps" in task else None
    tokens = len(prepared["input_ids"].combine_chunks().flatten())
    seconds, busy = times["_prepare_dataset"]
    found = {
        "seconds": seconds,
        "busy": busy,
        "whole": whole,
        "packing": times.get("pack_dataset"),
        "rows": len(prepared),
    }
    print("\n" + json.dumps({**found, "tokens": tokens, "training": training}))


def train(trainer: Any, steps: int) -> tuple[int, float, float]:
    """Take batches forward and backward through the model; return tokens, seconds, and those of processor time."""
    import torch

    torch.set_num_threads(1)
    tokens = 0
    began, busy = time.perf_counter(), processor_time()
    for batch in itertools.islice(trainer.get_train_dataloader(), steps):
        tokens += batch["input_ids"].numel()
        trainer.compute_loss(trainer.model, batch).backward()
        trainer.model.zero_grad()
    return tokens, time.perf_counter() - began, processor_time() - busy


def conversation(row: dict[str, str]) -> dict[str, Any]:
    asked = "\n".join(part for part in (row["instruction"], row["input"]) if part)
    return {
        "prompt": [{"role": "user", "content": asked}],
        "completion": [{"role": "assistant", "content": row["output"]}],
    }


def time_calls(owner: Any, name: str, times: dict[str, tuple[float, float]]) -> None:
    """Have the seconds and the processor time that a function takes noted in `times`."""
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began, busy = time.perf_counter(), processor_time()
        result = function(*args, **kwargs)
        times[name] = (time.perf_counter() - began, processor_time() - busy)
        return result

    setattr(owner, name, timed)


def processor_time() -> float:
    """Return the seconds of processor time that this process has taken, and the children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
