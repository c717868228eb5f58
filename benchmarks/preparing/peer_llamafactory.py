"""Prepares a dataset as LLaMA-Factory's `train` does before it trains; run by :mod:`.peers`.

The time is that of ``get_dataset`` alone: reading, converting and tokenizing, without imports. ``whole`` is from the
start of the program to there.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Read the task, prepare, and print seconds and tokens; the labelled rows go to a file if one is named."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # type: ignore[import-not-found]
    from llamafactory.hparams import get_train_args  # type: ignore[import-not-found]
    from llamafactory.model import load_tokenizer  # type: ignore[import-not-found]

    task: dict[str, Any] = json.loads(sys.argv[1])
    folder = Path(task["data"]).parent
    entry = {"file_name": Path(task["data"]).name, **task.get("entry", {})}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": entry}))
    model, data, training, _, _ = get_train_args(
        {
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "model_name_or_path": task["base"],
            "dataset": "rows",
            "dataset_dir": str(folder),
            "template": task["template"],
            "cutoff_len": task["sequenceLength"],
            "preprocessing_num_workers": task["processes"],
            "overwrite_cache": True,
            "output_dir": str(folder / "output"),
            "use_cpu": True,
        }
    )
    module = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data)
    began, busy = time.perf_counter(), processor_time()
    rows = get_dataset(template, model, data, training, stage="sft", **module)["train_dataset"]
    seconds, busy = time.perf_counter() - began, processor_time() - busy
    whole = time.time() - task["began"], processor_time()
    columns = rows.with_format("arrow")[:]
    if "out" in task:
        with Path(task["out"]).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps([row["input_ids"], row["labels"]]) + "\n" for row in rows)
    tokens = len(columns["input_ids"].combine_chunks().flatten())
    found = {"seconds": seconds, "busy": busy, "whole": whole, "rows": len(rows), "tokens": tokens}
    print("\n" + json.dumps(found))


def processor_time() -> float:
    """Return the seconds of processor time that this process has taken, and the children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
