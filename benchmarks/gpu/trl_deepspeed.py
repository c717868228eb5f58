"""Trains with TRL's SFTTrainer and DeepSpeed as their documentation does; run by ``benchmarks/train_gpu.py``.

Rows are tokenized already. What is no setting of the comparison is as it is by default. With offload PyTorch's AdamW
takes the step on the processor, as ours does: DeepSpeed's own would have to be compiled.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Read the task and train; leave the most memory that was taken."""
    import torch
    from datasets import Dataset  # type: ignore[import-not-found]
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import BitsAndBytesConfig, PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    task: dict[str, Any] = json.loads(sys.argv[1])

    class Log(TrainerCallback):  # type: ignore[misc]
        """Writes what is logged to a file, as ours does."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
            with Path(task["log"]).open("a", encoding="utf-8") as file:
                file.write(json.dumps(logs) + "\n")

    four_bits = None
    if task["quantized"]:
        four_bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_quant_storage=torch.bfloat16,
        )
    settings = SFTConfig(
        output_dir=task["output"],
        deepspeed={
            "bf16": {"enabled": True},
            "zero_optimization": task["zero"],
            "zero_force_ds_cpu_optimizer": False,
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
        },
        bf16=True,
        model_init_kwargs={"dtype": torch.bfloat16, **({"quantization_config": four_bits} if four_bits else {})},
        max_length=None,
        completion_only_loss=True,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        **task["settings"],
    )
    pad, end = "<pad>", "<end>"
    words = Tokenizer(models.WordLevel({pad: 0, end: 2}, unk_token=pad))
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **task["lora"]) if task["lora"] else None
    trainer = SFTTrainer(
        task["base"],
        args=settings,
        train_dataset=Dataset.from_list(json.loads(Path(task["rows"]).read_text(encoding="utf-8"))),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token=pad, eos_token=end),
        peft_config=lora,
        callbacks=[Log()],
    )
    trainer.train()
    Path(task["memory"]).write_text(str(torch.cuda.max_memory_allocated()), encoding="utf-8")


if __name__ == "__main__":
    main()
