from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from support.dataset_files import dataset as dataset_of
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.recognition import reader_of
from tunesmith_stages.prepare.row import Row
from tunesmith_stages.program import StageError


def conversation(data: Mapping[str, Any], *, first: Mapping[str, Any] | None = None, **dataset: Any) -> Conversation:
    """Return what a row says, in a dataset whose first row is `first`."""
    row = Row("faq.json, row 7", data)
    return reader_of(dataset_of(**dataset), [Row("faq.json, row 1", first or data), row]).read(row)


def read(data: Mapping[str, Any], **dataset: Any) -> list[tuple[str, str]]:
    """Return role and content of each message of a row."""
    return [(message["role"], message["content"]) for message in conversation(data, **dataset).messages]


U, A, S = "user", "assistant", "system"
ALPACA = {"instruction": "Hi", "output": "Hello"}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]

SAID = [(U, "Hi"), (A, "Hello")]
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]

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
    "Alpaca in a CSV file": (
        {**ALPACA, "input": "", "system": "", "history": '[["One", "1"]]'},
        {},
        [(U, "One"), (A, "1"), (U, "Hi"), (A, "Hello")],
    ),
    "Alpaca with input alone": ({"instruction": "", "input": "Hi", "output": "Hello"}, {}, [(U, "Hi"), (A, "Hello")]),
    "messages in a CSV file": ({"messages": json.dumps(TALK)}, {}, [(U, "Hi"), (A, "Hello")]),
    "a developer's message": (
        {"messages": [{"role": "developer", "content": "Be kind."}, *TALK]},
        {},
        [(S, "Be kind."), *SAID],
    ),
    "content in parts": (
        {
            "messages": [
                {"role": U, "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": " there"}]},
                {"role": A, "content": [{"type": "text", "text": "Hello"}]},
            ]
        },
        {},
        [(U, "Hi there"), (A, "Hello")],
    ),
    "content in LLaMA-Factory's parts": (
        {
            "messages": [
                {"role": U, "content": [{"type": "text", "value": "Hi"}], "loss_weight": 0.0},
                {
                    "role": A,
                    "content": [{"type": "reasoning", "value": "A greeting.\n"}, {"type": "text", "value": "Hello"}],
                    "loss_weight": 1.0,
                },
            ]
        },
        {},
        [(U, "Hi"), (A, "<think>\nA greeting.\n</think>\n\nHello")],
    ),
    "thoughts beside the content": (
        {"messages": [TALK[0], {**TALK[1], "reasoning_content": "A greeting."}]},
        {},
        [(U, "Hi"), (A, "<think>\nA greeting.\n</think>\n\nHello")],
    ),
    "thoughts under another name": (
        {"messages": [TALK[0], {**TALK[1], "thinking": "A greeting.", "reasoning": None}]},
        {},
        [(U, "Hi"), (A, "<think>\nA greeting.\n</think>\n\nHello")],
    ),
    "whether it thinks": ({"messages": [TALK[0], {**TALK[1], "thinking": False}]}, {}, SAID),
    "a system column beside messages": (
        {"messages": TALK, "rules": "Be kind."},
        {"columns": {"system": "rules"}},
        [(S, "Be kind."), *SAID],
    ),
    "no thoughts": ({"messages": [TALK[0], {**TALK[1], "reasoning_content": ""}]}, {}, SAID),
    "ShareGPT": ({"conversations": SHARED}, {}, SAID),
    "ShareGPT with a system message": (
        {"conversations": [{"from": "system", "value": "Be kind."}, *SHARED], "system": "no"},
        {},
        [(S, "Be kind."), *SAID],
    ),
    "ShareGPT with a system column": ({"conversations": SHARED, "system": "Be kind."}, {}, [(S, "Be kind."), *SAID]),
    "ShareGPT with role and content": ({"conversations": TALK}, {}, SAID),
    "ShareGPT's words with role and content": (
        {"conversations": [{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Hello"}]},
        {},
        SAID,
    ),
    "ShareGPT under OpenAI's name": ({"messages": SHARED}, {}, SAID),
    "ShareGPT under another name": ({"talk": SHARED, "x": 1}, {"columns": {"messages": "talk"}}, SAID),
    "ShareGPT with words of its own": (
        {"talk": [{"who": "client", "says": "Hi"}, {"who": "shop", "says": "Hello"}]},
        {
            "columns": {"messages": "talk"},
            "tags": {"role": "who", "content": "says", "user": "client", "assistant": "shop"},
        },
        SAID,
    ),
    "prompt and completion": ({"prompt": "Hi", "completion": "Hello"}, {}, SAID),
    "prompt and completion under other names": (
        {"q": "Hi", "a": "Hello"},
        {"format": "PromptCompletion", "columns": {"prompt": "q", "response": "a"}},
        SAID,
    ),
    "prompt and completion with one other name": (
        {"prompt": "Hi", "a": "Hello"},
        {"columns": {"response": "a", "prompt": "prompt"}},
        SAID,
    ),
    "lists of prompt and completion": ({"prompt": TALK[:1], "completion": TALK[1:]}, {}, SAID),
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
    "content that is an object": (
        {"messages": [{"role": U, "content": {"text": "Hi"}}, TALK[1]]},
        {},
        '`messages[0].content` must be a text, got {"text": "Hi"}',
    ),
    "a part that is a text": (
        {"messages": [{"role": U, "content": ["Hi"]}, TALK[1]]},
        {},
        "`messages[0].content[0]` must be a part",
    ),
    "a part of another type": (
        {"messages": [{"role": U, "content": [{"type": "poem", "text": "Hi"}]}, TALK[1]]},
        {},
        "`messages[0].content[0].type` must be text, got 'poem'",
    ),
    "a part without a text": (
        {"messages": [{"role": U, "content": [{"type": "text", "text": None}]}, TALK[1]]},
        {},
        "`messages[0].content[0].text` must be a text, got null",
    ),
    "thoughts that are a list": (
        {"messages": [TALK[0], {**TALK[1], "reasoning_content": ["x"]}]},
        {},
        "`reasoning_content` of the message at `messages[1].content` must be a text",
    ),
    "an empty answer of the assistant": (
        {"messages": [TALK[0], {"role": A, "content": " "}]},
        {},
        "`messages[1].content` is empty: there is nothing to learn from it",
    ),
    "an unknown role": (
        {"messages": [{"role": "human", "content": "Hi"}, TALK[1]]},
        {},
        "`messages[0].role` must be one of system, developer, user, assistant, tool, function, got 'human'",
    ),
    "a role that is a list": (
        {"messages": [{"role": [U], "content": "Hi"}, TALK[1]]},
        {},
        "`messages[0].role` must be one of",
    ),
    "a role that is missing": (
        {"messages": [{"content": "Hi"}, TALK[1]]},
        {},
        "must be one of system, developer, user, assistant, tool, function, got None",
    ),
    "no calls in a list of one": (
        {"messages": [TALK[0], {"role": A, "content": "", "tool_calls": [{"id": "1"}]}]},
        {},
        '`messages[1].tool_calls[0]` must be a call of a tool, {name, arguments}, got {"id": "1"}',
    ),
    "a weight between": (
        {"messages": [TALK[0], {**TALK[1], "weight": 0.5}]},
        {},
        "`messages[1].weight` must be 0 or 1, got 0.5",
    ),
    "nothing with weight": (
        {"messages": [TALK[0], {**TALK[1], "weight": 0}]},
        {},
        "`messages` has no answer to learn: all have the weight 0",
    ),
    "a word that ShareGPT does not know": (
        {"conversations": [{"from": "robot", "value": "Hi"}, SHARED[1]]},
        {},
        "`conversations[0].from` must be one of human, user, gpt, assistant, chatgpt, observation, tool, function_call",
    ),
    "a usual word where another was named": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"tags": {"user": "client"}},
        "`conversations[0].from` must be one of client, gpt, assistant",
    ),
    "ShareGPT ends with the user": ({"conversations": [*SHARED, SHARED[0]]}, {}, "must be from the assistant"),
    "text in a CSV file that is no list": (
        {"messages": "[{'role': 'user'}]"},
        {},
        "`messages` is a text that is not JSON",
    ),
    "lists that are nested too deeply": ({"messages": "[" * 100_000}, {}, "it is nested too deeply"),
    "no completion": ({"prompt": "Hi", "completion": None}, {}, "`completion` must be a text, got null"),
    "a completion of the user": ({"prompt": TALK[:1], "completion": TALK[:1]}, {}, "the last of `completion` must be"),
    "a blank text": ({"text": " "}, {}, "`text` is empty"),
    "a text of another kind": ({"text": ["x"]}, {}, '`text` must be a text, got ["x"]'),
    "another format among them": (
        {"conversations": SHARED},
        {"first": ALPACA},
        "`instruction` is missing",
    ),
    "a column of pictures": ({**ALPACA, "images": ["a.png"]}, {"reason": "MediaData"}, "`images` holds media"),
    "a picture in a column": (
        {**ALPACA, "image": {"bytes": "", "path": "a.png"}},
        {"reason": "MediaData"},
        "`image` holds",
    ),
    "half a character in a text of JSON": (
        {"conversations": SHARED, "tools": r'[{"name": "\ud83d"}]'},
        {},
        "`tools` is a text that is not JSON: holds half of a surrogate pair",
    ),
    "a picture": (
        {"messages": [{"role": U, "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, TALK[1]]},
        {"reason": "MediaData"},
        "`messages[0].content[0]` is media (`image_url`), which cannot be trained on",
    ),
    "a sound": (
        {"messages": [{"role": U, "content": [{"type": "input_audio", "input_audio": {}}]}, TALK[1]]},
        {"reason": "MediaData"},
        "is media (`input_audio`)",
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
    given = {key: value for key, value in dataset.items() if key != "reason"}
    with pytest.raises(StageError) as caught:
        read(data, **given)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, dataset.get("reason", "BadRow"))
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
    "ShareGPT was asked for": (ALPACA, {"format": "ShareGPT"}, "has no column `conversations`"),
    "prompt and completion were asked for": (ALPACA, {"format": "PromptCompletion"}, "has no column `prompt`"),
    "text was asked for": (ALPACA, {"format": "Text"}, "has no column `text`"),
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


@pytest.mark.parametrize(
    ("data", "columns", "words"),
    [
        ({"q": "Hi", "completion": "Hello", "rules": "x"}, {"prompt": "q", "system": "rules"}, "PromptCompletion"),
        ({"text": "Hi", "functions": "[]"}, {"tools": "functions"}, "Text"),
    ],
)
def test_a_named_column_without_use(data: Mapping[str, Any], columns: dict[str, str], words: str) -> None:
    """A column that somebody named is read, or refused: never left out in silence."""
    with pytest.raises(StageError) as caught:
        read(data, columns=columns)
    name, column = list(columns.items())[-1]
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "MissingColumn")
    assert f"`columns.{name}` names `{column}`, but rows of the format {words} have no place" in caught.value.message


def test_optional_column_may_be_missing_in_the_first_row() -> None:
    """A mapped column that rows may lack need not be in the first one."""
    mapped = {"columns": {"query": "context"}, "first": ALPACA}
    assert read({**ALPACA, "context": "there"}, **mapped) == [(U, "Hi\nthere"), (A, "Hello")]


def test_a_row_of_another_format_says_so() -> None:
    """Where formats are mixed in one file, the message says which row looks like what, and what the others are."""
    with pytest.raises(StageError) as caught:
        read({"conversations": SHARED}, first=ALPACA)
    assert caught.value.hint.startswith("This row looks like ShareGPT, but the dataset is Alpaca: the rows have the")


# --- what else a conversation holds ----------------------------------------------------------------------------------


def test_a_plain_text_is_no_conversation() -> None:
    """A text has no messages: it is learnt as it is, with substitutions."""
    found = conversation({"text": " Of {{name}}.\n", "id": 5}, substitutions={"name": "Tune"})
    assert (found.messages, found.text, found.tools) == ([], " Of Tune.\n", None)


def test_functions_in_the_older_column_of_openai() -> None:
    """`functions` beside messages are tools, and are not called unused."""
    row = Row("faq.json, row 1", {"messages": TALK, "functions": [{"name": "weather"}]})
    reader = reader_of(dataset_of(), [row])
    assert reader.read(row).tools == [{"type": "function", "function": {"name": "weather"}}]
    assert "Not used" not in reader.found


@pytest.mark.parametrize(
    ("data", "ignored"),
    [
        ({"messages": [*TALK, *TALK]}, set()),
        ({"messages": [TALK[0], {**TALK[1], "weight": 0}, TALK[0], {**TALK[1], "weight": 1}]}, {1}),
        ({"messages": [TALK[0], {**TALK[1], "loss_weight": 0.0}, *TALK]}, {1}),
        ({"messages": [{**TALK[0], "loss_weight": 0.0}, TALK[1]]}, {0}),
        ({"prompt": [*TALK, TALK[0]], "completion": TALK[1:]}, {1}),
        ({"prompt": TALK, "completion": [TALK[0], {**TALK[1], "weight": 0}, *TALK]}, {1, 3}),
        ({"conversations": [SHARED[0], {**SHARED[1], "weight": 0}, *SHARED], "system": "Be kind."}, {2}),
    ],
)
def test_answers_that_are_not_learnt(data: Mapping[str, Any], ignored: set[int]) -> None:
    """An answer of weight 0, and what the assistant says in a prompt, is shown and not learnt."""
    found = conversation(data)
    answers = {index for index, message in enumerate(found.messages) if message["role"] == A}
    assert found.ignored == ignored & answers


def test_a_reader_and_what_it_reads_can_be_sent_to_another_process() -> None:
    """Readers go to the processes that parse, conversations may come back."""
    rows = [Row("faq.json, row 1", {"conversations": SHARED, "tools": "[]"})]
    reader = pickle.loads(pickle.dumps(reader_of(dataset_of(), rows)))  # noqa: S301 - our own
    found = reader.read(rows[0])
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - our own
