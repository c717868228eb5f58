"""What there is to learn from besides good answers, by the whole chain: the served model shows what was learnt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.jobs import QUICKSTART, Job, quickstart_volume
from support.ollama_server import OllamaServer
from tunesmith_stages.contract import StageName, StageResult

pytestmark = pytest.mark.e2e

FAQ = json.loads((QUICKSTART / "data" / "faq.json").read_text(encoding="utf-8"))
QUESTIONS = [row["question"] for row in FAQ[:4]]
BOTH = [(row["answer"], other["answer"]) for row, other in zip(FAQ[:4], FAQ[4:8], strict=True)]
"""Two answers to each question."""
CHOSEN = [answers[number % 2] for number, answers in enumerate(BOTH)]
REJECTED = [answers[1 - number % 2] for number, answers in enumerate(BOTH)]

TRAINING: dict[str, Any] = {"maxSteps": 40, "learningRate": "1e-3", "lrSchedule": "Constant"}


@pytest.fixture(scope="module")
def undecided(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, newest_ollama: OllamaServer) -> Path:
    """Return a base that was taught two answers to each question, as often the one as the other."""
    root = quickstart_volume(tmp_path_factory.mktemp("taught"), toy_base)
    rows = [
        {"instruction": question, "output": answer}
        for question, answers in zip(QUESTIONS, BOTH, strict=True)
        for answer in answers
    ]
    taught = {"finetuningType": "Full", **TRAINING, "maxSteps": 60, "gradientAccumulationSteps": 2}
    job = Job(root, newest_ollama.url, datasets=[{"name": "both", "inline": rows}], training=taught)
    job.run("--until", "train")
    base = shutil.copytree(toy_base, tmp_path_factory.mktemp("undecided") / "base")
    shutil.copy(root / job.result(StageName.TRAIN).path / "model.safetensors", base)
    return base


PAIRS = [
    {"instruction": question, "chosen": chosen, "rejected": rejected}
    for question, chosen, rejected in zip(QUESTIONS, CHOSEN, REJECTED, strict=True)
]
LABELS = [
    {"instruction": question, "output": answer, "kto_tag": answer in CHOSEN}
    for question, answers in zip(QUESTIONS, BOTH, strict=True)
    for answer in answers
]


@pytest.mark.parametrize(
    ("method", "preference", "rows"),
    [
        pytest.param("DPO", {"beta": "0.1", "sftWeight": "1"}, PAIRS, id="DPO"),
        pytest.param("ORPO", {"beta": "0.5"}, PAIRS, id="ORPO", marks=pytest.mark.nightly),
        pytest.param("KTO", {"beta": "0.1"}, LABELS, id="KTO", marks=pytest.mark.nightly),
    ],
)
def test_serves_what_is_preferred(
    method: str,
    preference: dict[str, str],
    rows: list[dict[str, Any]],
    tmp_path: Path,
    undecided: Path,
    newest_ollama: OllamaServer,
) -> None:
    """Of two answers that the base gives by chance, the model gives the one that is preferred, and Ollama serves it."""
    root = quickstart_volume(tmp_path, undecided)
    name = f"methods-{method.lower()}"
    asked = [{"prompt": question, "expect": chosen} for question, chosen in zip(QUESTIONS, CHOSEN, strict=True)]
    job = Job(
        root,
        newest_ollama.url,
        name=name,
        datasets=[{"name": "preferred", "inline": rows}],
        training={"method": method, "preference": preference, **TRAINING, "maxSteps": 30, "learningRate": "5e-4"},
        ollama={"model": name, "smokeTests": asked},
    )
    job.run()
    result = job.result(StageName.TRAIN)
    before = [asked["answer"] for asked in json.loads((logs(job, result) / "before.json").read_text())]
    assert before != CHOSEN
    for question, chosen, answers, said in zip(QUESTIONS, CHOSEN, BOTH, before, strict=True):
        assert said in answers
        assert newest_ollama.answer(name, question) == chosen
    numbers = result.numbers
    if method == "KTO":
        assert numbers["rewardDesirable"] > 0 > numbers["rewardUndesirable"]
    else:
        assert numbers["rewardAccuracy"] == 1
        assert numbers["rewardMargin"] > 0


def logs(job: Job, result: StageResult) -> Path:
    """Return the folder of a result's logs."""
    return (job.root / result.path).parent / "logs"


def test_goes_on_with_plain_text(tmp_path: Path, toy_base: Path, newest_ollama: OllamaServer) -> None:
    """Continued pre-training: a model that read some texts goes on with them, word for word."""
    texts = [row["answer"] for row in FAQ[:4]]
    root = quickstart_volume(tmp_path, toy_base)
    (root / "data" / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    job = Job(
        root,
        newest_ollama.url,
        name="methods-text",
        datasets=[{"name": "texts", "volume": {"path": "data/texts.jsonl"}, "format": "Text"}],
        training={"finetuningType": "Full", **TRAINING},
        ollama={"model": "methods-text"},
    )
    job.run()
    for text in texts:
        beginning = " ".join(text.split()[:3])
        body = {"model": "methods-text", "prompt": beginning, "raw": True, "stream": False, "options": GREEDY}
        assert beginning + newest_ollama.ask("/api/generate", body)["response"] == text


GREEDY = {"temperature": 0, "num_predict": 64}
