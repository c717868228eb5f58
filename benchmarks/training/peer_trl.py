"""Trains with TRL's SFTTrainer, as its documentation does; run by :mod:`.peers`.

Rows are tokenized already. What is no setting of the comparison is as it is by default, gradient checkpointing too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Read the task and train."""
    import torch
    from datasets import load_dataset  # type: ignore[import-not-found]
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    task: dict[str, Any] = json.loads(sys.argv[1])

    class Log(TrainerCallback):  # type: ignore[misc]
        """Writes what is logged to a file, as the others do."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
            with Path(task["log"]).open("a", encoding="utf-8") as file:
                file.write(json.dumps(logs) + "\n")

    settings = SFTConfig(
        output_dir=task["output"],
        use_cpu=True,
        bf16=task["bf16"],
        model_init_kwargs={"dtype": torch.bfloat16 if task["bf16"] and task["lora"] else torch.float32},
        max_length=None,
        train_sampling_strategy="sequential",
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        **task["settings"],
    )
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **task["lora"]) if task["lora"] else None
    trainer = SFTTrainer(
        task["base"],
        args=settings,
        train_dataset=load_dataset("json", data_files=task["rows"], split="train"),
        processing_class=AutoTokenizer.from_pretrained(task["base"]),
        peft_config=lora,
        callbacks=[Log()],
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
