"""The built-in dataset SelfCognition, as it is shipped."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest

ROWS = {"en": 60, "zh": 60}
"""At least so many rows of each language."""
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def read(language: str) -> list[dict[str, Any]]:
    text = (files("tunesmith_stages.builtin") / f"self_cognition.{language}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def turns(language: str) -> list[tuple[str, str]]:
    return [tuple(message["content"] for message in row["messages"]) for row in read(language)]


@pytest.mark.parametrize("language", ROWS)
def test_rows_are_one_question_and_one_answer(language: str) -> None:
    """Every row is a user's message and the assistant's, and nothing else, with text that is not padded."""
    for row in read(language):
        assert list(row) == ["messages"]
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        for message in row["messages"]:
            assert list(message) == ["role", "content"]
            assert message["content"] == message["content"].strip() != ""


@pytest.mark.parametrize("language", ROWS)
def test_every_answer_teaches_name_or_author(language: str) -> None:
    """An answer without a placeholder would teach nothing of who the model is."""
    lacking = [question for question, answer in turns(language) if not re.search(r"\{\{(name|author)\}\}", answer)]
    assert lacking == []


@pytest.mark.parametrize("language", ROWS)
def test_no_placeholder_is_left_after_substitution(language: str) -> None:
    """`name` and `author` are all that a job has to give; questions hold no placeholder, so they read naturally."""
    for question, answer in turns(language):
        left = answer.replace("{{name}}", "").replace("{{author}}", "")
        assert "{" not in question + left, question
        assert "}" not in question + left, question


@pytest.mark.parametrize("language", ROWS)
def test_questions_are_many_and_different(language: str) -> None:
    """A set of few or repeated questions would not hold for other wordings."""
    questions = [question for question, _ in turns(language)]
    assert len(questions) >= ROWS[language]
    assert [question for question, count in Counter(questions).items() if count > 1] == []


@pytest.mark.parametrize("language", ROWS)
def test_each_file_is_in_its_language(language: str) -> None:
    """`languages: [en]` must not teach Chinese, nor the other way round."""
    for question, answer in turns(language):
        found = [bool(_CHINESE.search(text)) for text in (question, answer)]
        assert found == [language == "zh"] * 2, (question, answer)


@pytest.mark.parametrize("language", ROWS)
def test_both_name_and_author_are_taught_often(language: str) -> None:
    """The model should know its name and its author equally well."""
    answers = [answer for _, answer in turns(language)]
    assert sum("{{name}}" in answer for answer in answers) >= 30
    assert sum("{{author}}" in answer for answer in answers) >= 30
