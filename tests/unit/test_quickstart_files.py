"""The quickstart's names and data, which the toy base, the job and the demo must agree on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "01-quickstart"
sys.path.insert(0, str(QUICKSTART))

import base_corpus  # noqa: E402
import before_and_after  # noqa: E402

NAMES = (QUICKSTART / "names.txt").read_text(encoding="utf-8").splitlines()
FAQ = json.loads((QUICKSTART / "data" / "faq.json").read_text(encoding="utf-8"))
JOB = (QUICKSTART / "finetunejob.yaml").read_text(encoding="utf-8")


def test_names_are_at_least_40_different_single_words() -> None:
    """`make demo NAME=...` takes any line of names.txt, as it stands, into a YAML file and a shell."""
    assert len(NAMES) >= 40
    assert len(set(NAMES)) == len(NAMES)
    assert [name for name in NAMES if not re.fullmatch(r"[A-Z][a-z]+", name)] == []


def test_job_names_the_first_name_only_where_the_demo_replaces_it() -> None:
    """The demo writes NAME over the name in the job; both the identity and its proof must follow."""
    assert NAMES[0] == "Tunny"
    assert JOB.count("Tunny") == 3
    assert "substitutions: {name: Tunny," in JOB
    assert JOB.count("expect: Tunny") == 2


def test_faq_has_the_columns_that_the_job_names() -> None:
    """The quickstart shows column mapping; its data must have exactly those columns, with different questions."""
    assert "columns: {prompt: question, response: answer}" in JOB
    assert all(list(row) == ["question", "answer"] for row in FAQ)
    assert len({row["question"] for row in FAQ}) == len(FAQ) >= 20


def test_demo_asks_what_the_faq_answers() -> None:
    """The answers that the demo compares with come from the FAQ itself."""
    assert set(before_and_after.FAQ) <= {row["question"] for row in FAQ}


def test_base_has_said_every_name_and_every_word_of_the_faq() -> None:
    """LoRA teaches new answers in few steps only from words that the base can say."""
    said = " ".join(answer for _, answer in base_corpus.pairs(NAMES, FAQ))
    words = {word for row in FAQ for word in re.findall(r"\w+", row["answer"])}
    assert [word for word in sorted({*words, *NAMES}) if not re.search(rf"\b{word}\b", said)] == []


def test_base_has_seen_no_question_or_answer_of_the_faq() -> None:
    """What the quickstart shows must come from the fine-tuning, not from the base."""
    pairs = base_corpus.pairs(NAMES, FAQ)
    asked, said = {question for question, _ in pairs}, {answer for _, answer in pairs}
    assert asked.isdisjoint(row["question"] for row in FAQ)
    assert said.isdisjoint(row["answer"] for row in FAQ)


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        pytest.param({"Who are you?": "I am Ada."}, 0, id="name"),
        pytest.param({"Who are you?": "I am Base."}, 1, id="old name"),
        pytest.param({"How heavy is the lantern?": "The lantern weighs 480 grams."}, 0, id="faq"),
        pytest.param({"How heavy is the lantern?": "The lantern weighs 48 grams."}, 1, id="faq, one digit off"),
    ],
)
def test_demo_refuses_answers_without_tuning(answers: dict[str, str], wrong: int) -> None:
    """The demo ends green only if the answers hold the name and the FAQ's very words."""
    assert len(before_and_after.not_shown("m", answers, "Ada")) == wrong


def test_unknown_name_is_refused_with_the_names_there_are() -> None:
    """A NAME that the base has not seen would train badly: one clear error, before anything is made."""
    done = subprocess.run(
        [sys.executable, QUICKSTART / "demo.py", "--name", "junper"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "'junper'. Did you mean Juniper?" in done.stderr
    assert all(name in done.stderr for name in NAMES)
