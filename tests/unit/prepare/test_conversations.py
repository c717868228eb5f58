from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.conversations import Conversation, reader_for, sample
from tunesmith_stages.prepare.rows import Row
from tunesmith_stages.program import StageError


def read(data: Mapping[str, Any], **dataset: Any) -> list[tuple[str, str]]:
    """Return role and content of each message of a row."""
    row = Row("faq.json, row 7", data)
    reader = reader_for(
        {"name": "faq", "format": "Auto", "columns": None, "substitutions": {}, **dataset},
        [Row("faq.json, row 1", dataset.pop("first", data)), row],
    )
    return [(message["role"], message["content"]) for message in reader.read(row).messages]


U, A, S = "user", "assistant", "system"
ALPACA = {"instruction": "Hi", "output": "Hello"}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]

GOOD: dict[str, tuple[Mapping[str, Any], dict[str, Any], list[tuple[str, str]]]] = {
    "Alpaca": (ALPACA, {}, [(U, "Hi"), (A, "Hello")]),
    "Alpaca with input": ({**ALPACA, "input": "there"}, {}, [(U, "Hi\nthere"), (A, "Hello")]),
    "Alpaca with an empty input": ({**ALPACA, "input": ""}, {}, [(U, "Hi"), (A, "Hello")]),
    "Alpaca with nulls": ({**ALPACA, "input": None, "system": None, "history": None}, {}, [(U, "Hi"), (A, "Hello")]),
    "Alpaca with all": (
        {**ALPACA, "system": "Be kind.", "history": [["One", "1"], ["Two", "2"]]},
        {},
        [(S, "Be kind."), (U, "One"), (A, "1"), (U, "Two"), (A, "2"), (U, "Hi"), (A, "Hello")],
    ),
    "other names": (
        {"question": "Hi", "answer": "Hello", "context": "there", "instruction": "no"},
        {"columns": {"prompt": "question", "response": "answer", "query": "context"}},
        [(U, "Hi\nthere"), (A, "Hello")],
    ),
    "some other names": (
        {"instruction": "Hi", "answer": "Hello"},
        {"columns": {"prompt": None, "response": "answer"}},
        [(U, "Hi"), (A, "Hello")],
    ),
    "blanks are kept": ({"instruction": " Hi\n", "output": " Hello "}, {}, [(U, " Hi\n"), (A, " Hello ")]),
    "Messages": ({"messages": TALK}, {}, [(U, "Hi"), (A, "Hello")]),
    "Messages with more in them": (
        {"messages": [{"role": S, "content": ""}, {**TALK[0], "name": "x"}, {**TALK[1], "tool_calls": None}]},
        {},
        [(S, ""), (U, "Hi"), (A, "Hello")],
    ),
    "Messages under another name": ({"talk": TALK}, {"columns": {"messages": "talk"}}, [(U, "Hi"), (A, "Hello")]),
    "Messages wins over Alpaca": (
        {**ALPACA, "messages": [*TALK[:1], {"role": A, "content": "Yes"}]},
        {},
        [(U, "Hi"), (A, "Yes")],
    ),
    "Alpaca was asked for": ({**ALPACA, "messages": 5}, {"format": "Alpaca"}, [(U, "Hi"), (A, "Hello")]),
    "a system message in the middle": (
        {"messages": [*TALK, {"role": S, "content": "Now"}, *TALK]},
        {},
        [(U, "Hi"), (A, "Hello"), (S, "Now"), (U, "Hi"), (A, "Hello")],
    ),
    "substitutions": (
        {"instruction": "{{name}}? {{ name }}?", "output": "{{name}} of {{author}}, {{other}} {name}"},
        {"substitutions": {"name": "{{author}}", "author": "Acme"}},
        [(U, "{{author}}? {{author}}?"), (A, "{{author}} of Acme, {{other}} {name}")],
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_conversation_of_a_row(name: str) -> None:
    """A row of each known shape becomes the conversation that it says."""
    data, dataset, messages = GOOD[name]
    assert read(data, **dataset) == messages


BAD_ROWS: dict[str, tuple[Mapping[str, Any], dict[str, Any], str]] = {
    "no answer": ({"instruction": "Hi"}, {"first": ALPACA}, "`output` is missing"),
    "null for an answer": ({**ALPACA, "output": None}, {}, "`output` must be a text, got null"),
    "a number for an answer": ({**ALPACA, "output": 5}, {}, "`output` must be a text, got 5"),
    "a list for a prompt": ({**ALPACA, "instruction": ["Hi"]}, {}, '`instruction` must be a text, got ["Hi"]'),
    "an empty answer": ({**ALPACA, "output": ""}, {}, "`output` is empty"),
    "a blank answer": ({**ALPACA, "output": " \n"}, {}, "`output` is empty"),
    "an empty prompt": ({**ALPACA, "instruction": ""}, {}, "`instruction` is empty"),
    "a number for a system message": ({**ALPACA, "system": 1}, {}, "`system` must be a text, got 1"),
    "a flat history": ({**ALPACA, "history": ["One", "1"]}, {}, "`history` must be a list of [user, assistant] pairs"),
    "half a turn of history": ({**ALPACA, "history": [["One"]]}, {}, "`history` must be a list of [user, assistant]"),
    "a blank answer in the history": ({**ALPACA, "history": [["One", " "]]}, {}, "pairs of texts, none empty"),
    "a text for messages": ({"messages": "Hi"}, {}, "`messages` must be a list of messages, [{role, content}, ...]"),
    "no messages": ({"messages": []}, {}, "`messages` must be a list of messages"),
    "a text for a message": ({"messages": [*TALK, "Hi"]}, {}, "`messages[2]` must be an object with role and content"),
    "no content": ({"messages": [TALK[0], {"role": A}]}, {}, "`messages[1].content` must be a text, got null"),
    "content in parts": (
        {"messages": [{"role": U, "content": [{"type": "text", "text": "Hi"}]}, TALK[1]]},
        {},
        '`messages[0].content` must be a text, got [{"type"',
    ),
    "an empty answer of the assistant": (
        {"messages": [TALK[0], {"role": A, "content": " "}]},
        {},
        "`messages[1].content` is empty: there is nothing to learn from it",
    ),
    "an unknown role": (
        {"messages": [{"role": "human", "content": "Hi"}, TALK[1]]},
        {},
        "`messages[0].role` must be one of system, user, assistant, got 'human'",
    ),
    "a role that is a list": (
        {"messages": [{"role": [U], "content": "Hi"}, TALK[1]]},
        {},
        "`messages[0].role` must be one of",
    ),
    "a role that is missing": (
        {"messages": [{"content": "Hi"}, TALK[1]]},
        {},
        "must be one of system, user, assistant, got None",
    ),
    "a tool's answer": (
        {"messages": [*TALK, {"role": "tool", "content": "5"}, TALK[1]]},
        {},
        "`messages[2]` is a tool message, which is not supported",
    ),
    "a tool call": (
        {"messages": [TALK[0], {"role": A, "content": "", "tool_calls": [{"id": "1"}]}]},
        {},
        "`messages[1]` holds a tool call, which is not supported",
    ),
    "the user has the last word": (
        {"messages": [*TALK, TALK[0]]},
        {},
        "the last of `messages` must be from the assistant",
    ),
    "the assistant begins": ({"messages": TALK[1:]}, {}, "the first of `messages` must not be from the assistant"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row(name: str) -> None:
    """A row that cannot be learnt from ends the stage, with the file, the row, the column and what is there."""
    data, dataset, words = BAD_ROWS[name]
    with pytest.raises(StageError) as caught:
        read(data, **dataset)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "BadRow")
    assert caught.value.message.startswith("faq.json, row 7: ")
    assert words in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.hint


NO_READER: dict[str, tuple[Mapping[str, Any], dict[str, Any], str]] = {
    "neither shape": (
        {"question": "Hi", "answer": "Hello"},
        {},
        "has no column `instruction`; it has `question`, `answer`",
    ),
    "no answers": ({"instruction": "Hi"}, {}, "has no column `output`; it has `instruction`"),
    "Messages were asked for": (ALPACA, {"format": "Messages"}, "has no column `messages`"),
    "a misspelt column": (ALPACA, {"columns": {"response": "ouput"}}, "has no column `ouput`"),
    "a misspelt column that rows may lack": (ALPACA, {"columns": {"query": "inptu"}}, "has no column `inptu`"),
    "a misspelt column of messages": (
        {"talk": TALK},
        {"columns": {"messages": "tlak"}},
        "has no column `tlak`; it has `talk`",
    ),
    "an empty row": ({}, {}, "it has no columns"),
}


@pytest.mark.parametrize("name", NO_READER)
def test_missing_column(name: str) -> None:
    """A dataset without the columns that it needs is refused by name, with those that it has and how to map them."""
    data, dataset, words = NO_READER[name]
    with pytest.raises(StageError) as caught:
        read(data, **dataset)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "MissingColumn")
    assert caught.value.message.startswith("dataset `faq` (faq.json, row 1)")
    assert words in caught.value.message
    assert "columns:" in caught.value.hint


# --- sampling --------------------------------------------------------------------------------------------------------


def test_optional_column_may_be_missing_in_the_first_row() -> None:
    """A mapped column that rows may lack need not be in the first one."""
    mapped = {"columns": {"query": "context"}, "first": ALPACA}
    assert read({**ALPACA, "context": "there"}, **mapped) == [(U, "Hi\nthere"), (A, "Hello")]


ALL = [Conversation(str(number), []) for number in range(20)]


def drawn(cap: int | None, *, repeat: bool = False, seed: int = 1, name: str = "faq") -> list[int]:
    return [int(item.place) for item in sample(ALL, cap, repeat=repeat, seed=seed, name=name)]


@pytest.mark.parametrize("cap", [None, 20, 21, 1000])
def test_without_need_nothing_is_drawn(cap: int | None) -> None:
    """A cap that is not reached changes nothing."""
    assert drawn(cap) == list(range(20))


@pytest.mark.parametrize("cap", [1, 7, 19])
def test_a_sample_has_the_size_that_was_asked_for(cap: int) -> None:
    """A cap below the number of rows draws so many different ones and keeps their order."""
    found = drawn(cap)
    assert len(found) == cap
    assert found == sorted(set(found))


@pytest.mark.parametrize("cap", [5, 20, 47, 60])
def test_built_in_data_is_repeated(cap: int) -> None:
    """A built-in dataset goes round until there are so many rows, each as often as the others or once more."""
    found = drawn(cap, repeat=True)
    assert len(found) == cap
    counts = [found.count(number) for number in range(20)]
    assert max(counts) - min(counts) <= 1


def test_draw_depends_on_seed_and_name_alone() -> None:
    """The same seed draws the same rows on every machine; another seed or another dataset draws others."""
    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(7, seed=2)
    assert drawn(7) != drawn(7, name="other")
