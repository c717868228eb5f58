"""What the base answers before it is trained: people compare it with what the trained model says.

It goes to the attempt's logs and enters nothing. Answers are short and greedy. They take as long as that many forward
passes, and each rank takes part: with ZeRO-3 each holds a part of every layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerFast, TrainerCallback

LONGEST = 64
"""Tokens of an answer."""
MOST = 4
"""Questions that are asked."""
FILE = "before.json"


@dataclass(frozen=True)
class Question:
    """Something that the base is asked."""

    prompt: str
    """What the user says."""
    ids: Sequence[int]
    """What the model is given."""


class Questions:
    """The first of the job's smoke tests, as the model is asked them when it is served."""

    def __init__(self, base: Path, prepared: Path, smoke_tests: Sequence[Mapping[str, str]]) -> None:
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(base, local_files_only=True)
        self._template = (prepared / "chat_template.jinja").read_bytes().decode()
        tokens = json.loads((prepared / "tokens.json").read_text(encoding="utf-8"))
        self._bos = tokens["bosTokenId"] if tokens["addsBos"] else None
        self.end: int = tokens["endOfTurn"]["id"]
        self.asked = [self._question(test["prompt"]) for test in smoke_tests[:MOST]]

    def _question(self, prompt: str) -> Question:
        text: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
        )
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return Question(prompt, ids if self._bos is None or ids[:1] == [self._bos] else [self._bos, *ids])

    def text(self, ids: Sequence[int]) -> str:
        """Return an answer as people read it."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()


class AskFirst(TrainerCallback):
    """Asks when the model is ready, before the first step; a training that goes on from a checkpoint has none."""

    def __init__(self, trainer: Any, questions: Questions, file: Path) -> None:
        self._trainer = trainer
        self._questions = questions
        self._file = file

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Ask, and write the answers down; every rank does at the same time."""
        if state.global_step:
            return
        engine, device = self._trainer.model_wrapped, self._trainer.args.device
        engine.eval()
        answers = [
            {
                "prompt": question.prompt,
                "answer": self._questions.text(greedy(engine, question.ids, self._questions.end, device)),
            }
            for question in self._questions.asked
        ]
        engine.train()
        if dist.get_rank() == 0:
            self._file.write_text(json.dumps(answers, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def greedy(engine: Any, prompt: Sequence[int], end: int, device: torch.device) -> list[int]:
    """Return what the model goes on with, always with the likeliest token, up to `end` or LONGEST tokens.

    Rank 0 says which token it is: others could round otherwise, and ranks that end at different lengths would wait for
    each other.
    """
    ids = torch.tensor([list(prompt)], device=device)
    answer: list[int] = []
    while len(answer) < LONGEST:
        with torch.no_grad():
            logits = engine(input_ids=ids, attention_mask=torch.ones_like(ids))["logits"]
        token = logits[:, -1:].argmax(-1)
        dist.broadcast(token, src=0)
        if int(token) == end:
            break
        answer.append(int(token))
        ids = torch.cat([ids, token], dim=1)
    return answer
