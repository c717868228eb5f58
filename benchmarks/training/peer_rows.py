"""Writes tokenized rows as a dataset that LLaMA-Factory loads from its `tokenized_path`; run by :mod:`.peers`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Read the lines of the first file, and write the second, a folder."""
    from datasets import Dataset, DatasetDict  # type: ignore[import-not-found]

    with Path(sys.argv[1]).open(encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [json.loads(line) for line in file]
    whole = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    DatasetDict({"train": Dataset.from_list(whole)}).save_to_disk(sys.argv[2])


if __name__ == "__main__":
    main()
