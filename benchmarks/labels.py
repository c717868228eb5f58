"""Compares tokens and label masks with LLaMA-Factory's, row by row, for templates that both have.

    make bench BENCH=labels

Rows have up to three turns, some a system text. One difference is meant: after an answer's last token, at which the
model stops, some templates write a line break. LLaMA-Factory has it learnt; we don't, for the model never writes it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tunesmith_stages.tools import llama_cpp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.preparing.alpaca_like import write_base, write_talks
from benchmarks.preparing.ours import prepare, read
from benchmarks.preparing.peers import LLAMA_FACTORY

COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
IGNORED = -100


@dataclass(frozen=True)
class Template:
    """A template of the same name here and there."""

    name: str
    end: str
    begin: str | None = None
    system: str | None = None
    """What LLaMA-Factory writes where a row has no system text."""


TEMPLATES = (
    Template("chatml", "<|im_end|>"),
    Template("qwen", "<|im_end|>", system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    Template("llama3", "<|eot_id|>", begin="<|begin_of_text|>"),
    Template("gemma", "<end_of_turn>", begin="<bos>"),
)


def main() -> None:
    """Print for each template how many rows are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3000, help="rows that are compared for each template")
    arguments = parser.parse_args()
    llama_cpp()
    same = 0
    for template in TEMPLATES:
        with tempfile.TemporaryDirectory(prefix="labels-") as scratch:
            same += compare(Path(scratch), template, arguments.rows)
    print(f"ratio {same / len(TEMPLATES) / arguments.rows:.4f} of rows with LLaMA-Factory 0.9.5's tokens and labels")


def compare(root: Path, template: Template, rows: int) -> int:
    """Prepare the same rows here and there; return how many are the same, the line breaks set apart."""
    write_base(root / "base", end=template.end, begin=template.begin)
    (root / "talks").mkdir()
    write_talks(root / "talks" / "talks.jsonl", rows)
    chat_template = {"name": template.name, "defaultSystem": template.system}
    ours = read(prepare(root, "talks", chatTemplate=chat_template).folder / "out" / "train.arrow")
    LLAMA_FACTORY.run(
        {
            "base": str(root / "base"),
            "data": str(root / "talks" / "talks.jsonl"),
            "entry": {"columns": COLUMNS},
            "sequenceLength": 2048,
            "processes": 2,
            "template": template.name,
            "out": str(root / "theirs.jsonl"),
        }
    )
    lines = (root / "theirs.jsonl").read_text(encoding="utf-8").splitlines()
    theirs = [json.loads(line) for line in lines]
    end = ours[0]["labels"][max(place for place, label in enumerate(ours[0]["labels"]) if label != IGNORED)]
    tokens = same = close = 0
    for row, (ids, labels) in zip(ours, theirs, strict=True):
        tokens += ids == row["input_ids"]
        same += ids == row["input_ids"] and labels == row["labels"]
        close += ids == row["input_ids"] and without_breaks(ids, labels, end) == row["labels"]
    print(
        f"{template.name:<8} {len(ours):,} rows: the same tokens in {tokens:,}, the same labels in {same:,}; "
        f"but for line breaks after {template.end} in {close:,}"
    )
    return close


def without_breaks(ids: list[int], labels: list[int], end: int) -> list[int]:
    """Return the labels without those of tokens that follow an end of turn."""
    return [IGNORED if place and ids[place - 1] == end else label for place, label in enumerate(labels)]


if __name__ == "__main__":
    main()
