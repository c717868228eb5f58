"""Rows that say which answers people prefer: how they are recognised and read, and what is no good."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from support.dataset_files import dataset, read_all
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.preferences import LABELS, PAIRS
from tunesmith_stages.prepare.reader import Reader
from tunesmith_stages.prepare.recognition import reader_for, reader_of
from tunesmith_stages.prepare.row import BadRow, Row
from tunesmith_stages.program import StageError

Data = Mapping[str, Any]

ASKED = [{"role": "user", "content": "Hi"}]
BETTER, WORSE = {"role": "assistant", "content": "Hello"}, {"role": "assistant", "content": "What"}
SHARED = [{"from": "human", "value": "Hi"}]
SHARED_BETTER, SHARED_WORSE = {"from": "gpt", "value": "Hello"}, {"from": "gpt", "value": "What"}
ALPACA = {"instruction": "Hi", "chosen": "Hello", "rejected": "What"}
PROMPT = {"prompt": "Hi", "chosen": "Hello", "rejected": "What"}
EARLIER = [{"role": "user", "content": "One"}, {"role": "assistant", "content": "1"}]
TALK = {"messages": ASKED, "chosen": BETTER, "rejected": WORSE}
SHARED_TALK = {"conversations": SHARED, "chosen": SHARED_BETTER, "rejected": SHARED_WORSE}
WHOLE = {"chosen": [*ASKED, BETTER], "rejected": [*ASKED, WORSE]}


def reader(kind: str, data: Data, **changes: Any) -> Reader:
    return reader_of(dataset(**changes), [Row("a.json, row 1", data)], None, kind)


def read(kind: str, data: Data, first: Data | None = None, **changes: Any) -> Conversation:
    """Return what a row says in a dataset that begins with `first`, or with the row itself."""
    return reader(kind, first or data, **changes).read(Row("a.json, row 2", data))


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation.messages]


PAIRS_FOUND: dict[str, tuple[Data, dict[str, Any], str]] = {
    "Alpaca": (ALPACA, {}, "Alpaca: the rows have the column `instruction`; `chosen` is preferred to `rejected`."),
    "Alpaca with an answer, too": ({**ALPACA, "output": "x"}, {}, "is preferred to `rejected`. Not used: `output`."),
    "Alpaca in columns of other names": (
        {"q": "Hi", "good": "Hello", "bad": "What"},
        {"columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}},
        "Alpaca: the rows have the column `q`; `good` is preferred to `bad`.",
    ),
    "one other name": (
        {"prompt": "Hi", "chosen": "Hello", "bad": "What"},
        {"columns": {"rejected": "bad"}},
        "PromptCompletion: the rows have the column `prompt`; `chosen` is preferred to `bad`.",
    ),
    "a format that is named": (
        {**ALPACA, "messages": 1},
        {"format": "Alpaca"},
        "Alpaca: as `format` says; `chosen` is preferred to `rejected`. Not used: `messages`.",
    ),
    "a text and answers": (PROMPT, {}, "PromptCompletion: the rows have the column `prompt`; `chosen` is"),
    "a list and answers": (
        {"prompt": ASKED, "chosen": [BETTER], "rejected": [WORSE]},
        {},
        "PromptCompletion: `prompt` holds messages with a role and a content; `chosen` is preferred to `rejected`.",
    ),
    "a list in a column of another name": (
        {"q": ASKED, "chosen": [BETTER], "rejected": [WORSE]},
        {"columns": {"prompt": "q"}},
        "PromptCompletion: `q` holds messages with a role and a content",
    ),
    "Messages": (TALK, {}, "Messages: `messages` holds messages with a role and a content; `chosen` is"),
    "Messages and lists of one": ({"messages": ASKED, "chosen": [BETTER], "rejected": [WORSE]}, {}, "Messages: "),
    "Messages and texts": ({"messages": ASKED, "chosen": "Hello", "rejected": "What"}, {}, "Messages: `messages`"),
    "Messages in a column of another name": (
        {"talk": ASKED, "chosen": BETTER, "rejected": WORSE},
        {"columns": {"messages": "talk"}},
        "Messages: `talk` holds messages",
    ),
    "ShareGPT": (SHARED_TALK, {}, "ShareGPT: `conversations` holds messages with `from` and `value`; `chosen` is"),
    "ShareGPT and texts": ({"conversations": SHARED, "chosen": "Hello", "rejected": "What"}, {}, "ShareGPT: "),
    "ShareGPT with words of its own": (
        {
            "conversations": [{"who": "kid", "value": "Hi"}],
            "chosen": {"who": "mum", "value": "Hello"},
            "rejected": {"who": "mum", "value": "What"},
        },
        {"tags": {"role": "who", "content": "value", "user": "kid", "assistant": "mum"}},
        "ShareGPT: as `tags` says; `chosen` is preferred to `rejected`.",
    ),
    "whole conversations": (WHOLE, {}, "Messages: `chosen` holds messages with a role and a content; `chosen` is"),
    "whole conversations beside a prompt": (
        {"prompt": "Hi", "messages": [*ASKED, BETTER], **WHOLE, "score_chosen": 5},
        {},
        "preferred to `rejected`. Not used: `prompt`, `messages`, `score_chosen`.",
    ),
    "whole conversations of ShareGPT": (
        {"chosen": [*SHARED, SHARED_BETTER], "rejected": [*SHARED, SHARED_WORSE]},
        {},
        "ShareGPT: `chosen` holds messages with `from` and `value`",
    ),
    "whole conversations under longer names": (
        {"chosen_messages": [*ASKED, BETTER], "rejected_messages": [*ASKED, WORSE]},
        {},
        "`chosen_messages` is preferred to `rejected_messages`.",
    ),
    "whole conversations in columns of other names": (
        {"a": [*ASKED, BETTER], "b": [*ASKED, WORSE]},
        {"columns": {"chosen": "a", "rejected": "b"}},
        "Messages: `a` holds messages with a role and a content; `a` is preferred to `b`.",
    ),
    "lists that CSV has as texts": (
        {"messages": json.dumps(ASKED), "chosen": json.dumps(BETTER), "rejected": json.dumps([WORSE])},
        {},
        "Messages: `messages` holds messages",
    ),
    "whole conversations that CSV has as texts": (
        {"chosen": json.dumps([*ASKED, BETTER]), "rejected": json.dumps([*ASKED, WORSE])},
        {},
        "Messages: `chosen` holds messages",
    ),
}


@pytest.mark.parametrize("name", PAIRS_FOUND)
def test_pairs(name: str) -> None:
    """Every format of pairs is recognised by its columns, says why, and gives the prompt with either answer."""
    data, changes, words = PAIRS_FOUND[name]
    found = reader(PAIRS, data, **changes)
    assert words in found.found
    assert found.found.startswith(f"{found.format}: ")
    pair = found.read(Row("a.json, row 1", data))
    assert pair.rejected is not None
    assert said(pair) == [("user", "Hi"), ("assistant", "Hello")]
    assert said(pair.rejected) == [("user", "Hi"), ("assistant", "What")]
    assert [side.place for side in pair.at("here").sides] == ["here", "here"]


def test_everything_around_the_answers_of_a_pair() -> None:
    """System message, query, earlier turns and tools belong to both sides; of the answers the last alone is learnt."""
    data = {**ALPACA, "input": "there", "system": "Be kind.", "history": [["One", "1"], ["Two", "2"]]}
    pair = read(PAIRS, data)
    assert pair.rejected is not None
    assert said(pair)[:-1] == said(pair.rejected)[:-1]
    assert said(pair)[0] == ("system", "Be kind.")
    assert said(pair)[-2:] == [("user", "Hi\nthere"), ("assistant", "Hello")]
    assert pair.ignored == pair.rejected.ignored == {2, 4}
    tools = [{"name": "look", "description": "Look."}]
    with_tools = read(PAIRS, {**TALK, "tools": tools})
    assert [side.tools for side in with_tools.sides] == [[{"type": "function", "function": tools[0]}]] * 2


def test_placeholders_in_both_answers() -> None:
    """Substitutions are made in the rejected answer, too."""
    pair = read(PAIRS, {**ALPACA, "chosen": "I am {{name}}.", "rejected": "{{name}}"}, substitutions={"name": "Tunny"})
    assert pair.rejected is not None
    assert (said(pair)[-1][1], said(pair.rejected)[-1][1]) == ("I am Tunny.", "Tunny")


def test_an_answer_in_the_form_of_json() -> None:
    """A text that happens to be JSON, or to begin like it, is an answer like any other."""
    for text in ('{"price": 5}', "[1] says so", '[{"a": 1}]', "[]"):
        pair = read(PAIRS, {**TALK, "chosen": text, "rejected": "What"})
        assert said(pair)[-1] == ("assistant", text)


LABELS_FOUND: dict[str, tuple[Data, dict[str, Any], str]] = {
    "LLaMA-Factory's Alpaca": (
        {"instruction": "Hi", "output": "Hello", "kto_tag": True},
        {},
        "Alpaca: the rows have the columns `instruction` and `output`; `kto_tag` says which answers are desirable.",
    ),
    "LLaMA-Factory's ShareGPT": ({"conversations": [*SHARED, SHARED_BETTER], "kto_tag": True}, {}, "ShareGPT: "),
    "TRL's texts": ({"prompt": "Hi", "completion": "Hello", "label": True}, {}, "PromptCompletion: the rows have the"),
    "TRL's lists": ({"prompt": ASKED, "completion": [BETTER], "label": True}, {}, "PromptCompletion: "),
    "OpenAI's": ({"messages": [*ASKED, BETTER], "label": True}, {}, "Messages: `messages` holds messages with a role"),
    "both names": (
        {"messages": [*ASKED, BETTER], "label": "greeting", "kto_tag": True},
        {},
        "`kto_tag` says which answers are desirable. Not used: `label`.",
    ),
    "another name": (
        {"instruction": "Hi", "output": "Hello", "label": "greeting", "good": True},
        {"columns": {"desirable": "good"}},
        "`good` says which answers are desirable. Not used: `label`.",
    ),
    "another name beside others": (
        {"q": "Hi", "a": "Hello", "good": True},
        {"columns": {"prompt": "q", "response": "a", "desirable": "good"}},
        "Alpaca: the rows have the columns `q` and `a`; `good` says which answers are desirable.",
    ),
    "a text, as CSV has it": ({"prompt": "Hi", "completion": "Hello", "label": " TRUE"}, {}, "PromptCompletion: "),
    "a format that is named": (
        {"messages": [*ASKED, BETTER], "label": True},
        {"format": "Messages"},
        "Messages: as `format` says; `label` says which answers are desirable.",
    ),
}


@pytest.mark.parametrize("name", LABELS_FOUND)
def test_labels(name: str) -> None:
    """Every format of conversations may have a label, which is known by its name."""
    data, changes, words = LABELS_FOUND[name]
    found = reader(LABELS, data, **changes)
    assert words in found.found
    row = found.read(Row("a.json, row 1", data))
    assert (said(row), row.desirable) == ([("user", "Hi"), ("assistant", "Hello")], True)
    label = next(column for column in ("good", "kto_tag", "label") if column in data)
    assert found.read(Row("a.json, row 1", {**data, label: False})).desirable is False


def test_a_label_is_about_the_last_answer() -> None:
    """Earlier answers are neither desirable nor undesirable."""
    assert read(LABELS, {"messages": [*EARLIER, *ASKED, BETTER], "label": False}).ignored == {1}


BAD_ROWS: dict[str, tuple[str, Data, Data, str, str]] = {
    "no rejected answer": (PAIRS, ALPACA, {"instruction": "Hi", "chosen": "a"}, "`rejected` is missing", "rejected"),
    "a rejected answer that is null": (PAIRS, ALPACA, {**ALPACA, "rejected": None}, "`rejected` must be a text", "got"),
    "an empty answer": (PAIRS, ALPACA, {**ALPACA, "rejected": " "}, "`rejected` is empty", "Fill it in"),
    "an answer that is a number": (PAIRS, PROMPT, {**PROMPT, "chosen": 5}, "`chosen` must be a text, got 5", "chosen"),
    "no message": (PAIRS, TALK, {"messages": ASKED, "chosen": BETTER}, "`rejected` is missing", "columns.rejected"),
    "a message that is empty": (PAIRS, TALK, {**TALK, "rejected": {}}, "`rejected` must be a text, got {}", ""),
    "an answer without words": (
        PAIRS,
        TALK,
        {**TALK, "rejected": {"role": "assistant", "content": " "}},
        "`rejected.content` is empty: there is nothing to learn from it",
        "",
    ),
    "a message of another kind": (
        PAIRS,
        TALK,
        {**TALK, "chosen": 5},
        "`chosen` must be a text, a message or a list of messages, got 5",
        "",
    ),
    "an answer from the user": (
        PAIRS,
        TALK,
        {**TALK, "chosen": ASKED[0]},
        "`chosen` must be from the assistant, who answers `messages`; it is from the user",
        "",
    ),
    "a prompt that ends with an answer": (
        PAIRS,
        TALK,
        {**TALK, "messages": [*ASKED, BETTER]},
        "`messages` ends with an answer: there is nothing that `chosen` answers",
        "",
    ),
    "the same answer": (
        PAIRS,
        ALPACA,
        {**ALPACA, "rejected": "Hello"},
        "`chosen` and `rejected` are the same answer: neither is better",
        "onBadRow: Skip",
    ),
    "the same conversation": (
        PAIRS,
        WHOLE,
        {**WHOLE, "rejected": WHOLE["chosen"]},
        "`chosen` and `rejected` are the same answer",
        "onBadRow: Skip",
    ),
    "prompts that differ": (
        PAIRS,
        WHOLE,
        {"chosen": [*EARLIER, *ASKED, BETTER], "rejected": [EARLIER[0], BETTER, *ASKED, WORSE]},
        (
            "`chosen` and `rejected` must answer the same prompt: the conversations may differ in their last answer "
            "alone, and they do in message 2"
        ),
        "onBadRow: Skip",
    ),
    "answers of several messages": (
        PAIRS,
        TALK,
        {**TALK, "chosen": [BETTER, *ASKED, BETTER]},
        "may differ in their last answer alone, and they do in message 2",
        "onBadRow: Skip",
    ),
    "a conversation that goes on": (
        PAIRS,
        WHOLE,
        {**WHOLE, "rejected": [*ASKED, BETTER, *ASKED, WORSE]},
        "and they do in message 3",
        "onBadRow: Skip",
    ),
    "an answer that does not count": (
        PAIRS,
        TALK,
        {**TALK, "chosen": {**BETTER, "weight": 0}},
        "`chosen` has no answer to learn: all have the weight 0",
        "",
    ),
    "a whole conversation with a last answer that does not count": (
        PAIRS,
        WHOLE,
        {**WHOLE, "chosen": [*EARLIER, *ASKED, {**BETTER, "weight": 0}]},
        "the last answer of `chosen` has the weight 0",
        "onBadRow: Skip",
    ),
    "a label that is a number": (
        LABELS,
        {"messages": [*ASKED, BETTER], "label": True},
        {"messages": [*ASKED, BETTER], "label": 1},
        "`label` must be true or false, got 1",
        "`columns.desirable`",
    ),
    "a label that is a word": (
        LABELS,
        {"messages": [*ASKED, BETTER], "kto_tag": True},
        {"messages": [*ASKED, BETTER], "kto_tag": "good"},
        '`kto_tag` must be true or false, got "good"',
        "`columns.desirable`",
    ),
    "no label": (
        LABELS,
        {"messages": [*ASKED, BETTER], "kto_tag": True},
        {"messages": [*ASKED, BETTER]},
        "`kto_tag` is missing",
        "The row has `messages`",
    ),
    "a label that is null": (
        LABELS,
        {"messages": [*ASKED, BETTER], "kto_tag": True},
        {"messages": [*ASKED, BETTER], "kto_tag": None},
        "`kto_tag` must be true or false, got null",
        "",
    ),
    "an answer that is not there": (
        LABELS,
        {"instruction": "Hi", "output": "Hello", "kto_tag": True},
        {"instruction": "Hi", "output": "", "kto_tag": True},
        "`output` is empty",
        "Fill it in",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows(name: str) -> None:
    """A row that nothing can be learnt from is refused with its place and the field."""
    kind, first, data, words, hint = BAD_ROWS[name]
    with pytest.raises(StageError) as caught:
        read(kind, data, first)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "BadRow")
    assert caught.value.message.startswith("a.json, row 2: ")
    assert words in caught.value.message
    assert hint in caught.value.hint or hint in caught.value.message
    assert "preference data" not in caught.value.hint


def test_bad_rows_are_named_or_skipped(tmp_path: Path) -> None:
    """Of many rows those that are no good are told with file and line."""
    rows = [PROMPT, {**PROMPT, "rejected": ""}, {"instruction": "Hi", "output": "Hello"}, PROMPT]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_all(tmp_path, preferences=PAIRS)
    bad = [row for row in found if isinstance(row, BadRow)]
    assert [row.place for row in bad] == ["a.jsonl, line 2", "a.jsonl, line 3"]
    assert bad[0].hint == "Fill it in or remove the row."
    assert bad[1].message == "a.jsonl, line 3: `chosen` is missing"
    assert bad[1].hint.startswith("This row looks like Alpaca, but the dataset is PromptCompletion: the rows have the")


# --- files of every kind ---------------------------------------------------------------------------------------------


def write(folder: Path, suffix: str, rows: list[Data]) -> None:
    if suffix == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    elif suffix == "csv":
        columns = list(rows[0])
        lines = [columns, *([row[column] for column in columns] for row in rows)]
        (folder / "a.csv").write_text("\n".join(",".join(csv_field(field) for field in line) for line in lines))
    elif suffix == "json":
        (folder / "a.json").write_text(json.dumps(rows))
    else:
        (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))


def csv_field(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return '"' + text.replace('"', '""') + '"'


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("rows", [ALPACA, TALK, SHARED_TALK, WHOLE], ids=["texts", "messages", "ShareGPT", "whole"])
def test_pairs_in_files(tmp_path: Path, suffix: str, rows: Data) -> None:
    """Pairs are the same in every kind of file."""
    write(tmp_path, suffix, [rows, rows])
    found = read_all(tmp_path, preferences=PAIRS)
    assert len(found) == 2
    for pair in found:
        assert isinstance(pair, Conversation)
        assert pair.rejected is not None
        assert [said(side)[-1] for side in pair.sides] == [("assistant", "Hello"), ("assistant", "What")]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_labels_in_files(tmp_path: Path, suffix: str) -> None:
    """Labels are the same in every kind of file; CSV has texts of them."""
    row = {"prompt": "Hi", "completion": "Hello"}
    write(tmp_path, suffix, [{**row, "label": True}, {**row, "label": False}])
    found = read_all(tmp_path, preferences=LABELS)
    assert [row.desirable for row in found if isinstance(row, Conversation)] == [True, False]


# --- the wrong data for the method -----------------------------------------------------------------------------------


ANSWERED = {"instruction": "Hi", "output": "Hello"}

UNFIT: dict[str, tuple[str, Data, dict[str, Any], str, str]] = {
    "one answer for pairs": (
        PAIRS,
        ANSWERED,
        {},
        (
            "DPO and ORPO need a better and a worse answer to each prompt, such as `chosen` and `rejected`; it has "
            "`instruction`, `output`"
        ),
        "`columns: {chosen: ..., rejected: ...}`. Set `training.method: SFT`",
    ),
    "a conversation for pairs": (PAIRS, {"messages": [*ASKED, BETTER]}, {}, "it has `messages`", "SFT"),
    "a text for pairs": (PAIRS, {"text": "Hi"}, {}, "it has `text`", "SFT"),
    "a text that is named for pairs": (PAIRS, {"text": "Hi"}, {"format": "Text"}, "it has `text`", "SFT"),
    "no worse answer in the first row": (PAIRS, {"prompt": "Hi", "chosen": "a"}, {}, "it has `prompt`, `chosen`", ""),
    "labels for pairs": (PAIRS, {**ANSWERED, "kto_tag": True}, {}, "DPO and ORPO need", "`training.method: KTO`"),
    "TRL's labels for pairs": (PAIRS, {"messages": TALK, "label": True}, {}, "DPO and", "`training.method: KTO`"),
    "one answer for labels": (
        LABELS,
        ANSWERED,
        {},
        (
            "KTO needs answers to prompts and of each whether it is desirable, such as `kto_tag` or `label`; it has "
            "`instruction`, `output`"
        ),
        "`columns: {desirable: ...}`. Set `training.method: SFT`",
    ),
    "pairs for labels": (LABELS, ALPACA, {}, "KTO needs answers to prompts", "`training.method` to DPO or ORPO"),
    "a text for labels": (LABELS, {"text": "Hi", "label": True}, {}, "KTO needs answers to prompts", "SFT"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_other_data_than_the_method_learns_from(name: str) -> None:
    """Rows of another kind are refused as a whole, with what is missing and the method that would take them."""
    kind, data, changes, words, hint = UNFIT[name]
    with pytest.raises(StageError) as caught:
        reader(kind, data, **changes)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "NoPreferences")
    assert caught.value.message.startswith("dataset `faq` (a.json, row 1): ")
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_pairs_without_a_prompt() -> None:
    """Where there are answers and no question, that is what is missing."""
    with pytest.raises(StageError) as caught:
        reader(PAIRS, {"chosen": "Hello", "rejected": "What"})
    assert caught.value.reason == "MissingColumn"
    assert "has no column `instruction`; it has `chosen`, `rejected`" in caught.value.message
    assert "Beside `chosen` and `rejected` rows must have the prompt" in caught.value.hint


def test_a_first_row_without_answers_may_be_skipped(tmp_path: Path) -> None:
    """With `onBadRow: Skip` the format is that of the first row that has it all."""
    (tmp_path / "a.json").write_text(json.dumps([{"prompt": "Hi", "chosen": "a"}, PROMPT]))
    assert reader_for(dataset(onBadRow="Skip"), tmp_path, PAIRS).format == "PromptCompletion"
    with pytest.raises(StageError, match=r"a.json, row 1\): DPO and ORPO need"):
        reader_for(dataset(), tmp_path, PAIRS)


def test_a_column_without_use() -> None:
    """A response has no place beside two answers."""
    with pytest.raises(StageError, match=r"`columns.response` names `output`, but rows of the format Alpaca have no"):
        reader(PAIRS, {**ALPACA, "output": "x"}, columns={"response": "output"})


# --- LLaMA-Factory's dataset_info.json -------------------------------------------------------------------------------


def described(folder: Path, entry: Data, row: Data) -> None:
    (folder / "dataset_info.json").write_text(json.dumps({"shop": {"file_name": "shop.jsonl", **entry}}))
    (folder / "shop.jsonl").write_text(json.dumps(row) + "\n")


ENTRIES: dict[str, tuple[str, Data, Data, str]] = {
    "Alpaca": (
        PAIRS,
        {"ranking": True, "columns": {"prompt": "q", "query": "i", "chosen": "a", "rejected": "b"}},
        {"q": "Hi", "i": "", "a": "Hello", "b": "What"},
        "Alpaca: as the entry `shop` of dataset_info.json says; `a` is preferred to `b`.",
    ),
    "no columns": (PAIRS, {"ranking": True}, {**ALPACA, "input": ""}, "`chosen` is preferred to `rejected`."),
    "ShareGPT": (
        PAIRS,
        {
            "ranking": True,
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        },
        SHARED_TALK,
        "ShareGPT: as the entry `shop` of dataset_info.json says; `chosen` is preferred to `rejected`.",
    ),
    "OpenAI": (
        PAIRS,
        {
            "ranking": True,
            "formatting": "openai",
            "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        },
        TALK,
        "Messages: as the entry",
    ),
    "labels": (
        LABELS,
        {
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "kto_tag": "label"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        },
        {"messages": [*ASKED, BETTER], "label": True},
        "ShareGPT: as the entry `shop` of dataset_info.json says; `label` says which answers are desirable.",
    ),
    "labels of Alpaca": (
        LABELS,
        {"columns": {"prompt": "prompt", "response": "completion", "kto_tag": "label"}},
        {"prompt": "Hi", "completion": "Hello", "label": True},
        "Alpaca: as the entry `shop`",
    ),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entries(tmp_path: Path, name: str) -> None:
    """An entry for ranking or with a label is read as LLaMA-Factory reads it."""
    kind, entry, row, words = ENTRIES[name]
    described(tmp_path, entry, row)
    assert words in reader_for(dataset(datasetInfo="shop"), tmp_path, kind).found
    (found,) = read_all(tmp_path, preferences=kind, datasetInfo="shop")
    assert isinstance(found, Conversation)
    answers = [said(side) for side in found.sides]
    assert answers == [[("user", "Hi"), ("assistant", text)] for text in ("Hello", "What")[: len(answers)]]
    assert (found.desirable, found.rejected is None) == ((None, False) if kind == PAIRS else (True, True))


CHOSEN_BY_ENTRY: dict[str, tuple[Data, Data]] = {
    "the chosen answer": ({"columns": {"prompt": "instruction", "response": "chosen"}}, ALPACA),
    "a label that says something else": (
        {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
        {"conversations": [*SHARED, SHARED_BETTER], "label": True},
    ),
}


@pytest.mark.parametrize("name", CHOSEN_BY_ENTRY)
def test_an_entry_says_what_is_learnt_of_preferences(tmp_path: Path, name: str) -> None:
    """Supervised fine-tuning takes the answers that an entry names: a job with one can say it in no other way."""
    entry, row = CHOSEN_BY_ENTRY[name]
    described(tmp_path, entry, row)
    (found,) = read_all(tmp_path, datasetInfo="shop")
    assert isinstance(found, Conversation)
    assert said(found) == [("user", "Hi"), ("assistant", "Hello")]


UNFIT_ENTRIES: dict[str, tuple[str, Data, str, str, str]] = {
    "not for ranking": (PAIRS, {}, "NoPreferences", "its `ranking` is not true", "SFT"),
    "a label for pairs": (
        PAIRS,
        {"columns": {"prompt": "instruction", "response": "output", "kto_tag": "label"}},
        "NoPreferences",
        "its `ranking` is not true",
        "KTO",
    ),
    "ranking for labels": (LABELS, {"ranking": True}, "NoPreferences", "its `columns` have no `kto_tag`", "DPO"),
    "no label": (LABELS, {}, "NoPreferences", "its `columns` have no `kto_tag`", "SFT"),
    "texts with a label": (
        LABELS,
        {"columns": {"prompt": "instruction", "kto_tag": "rejected"}},
        "NoPreferences",
        "KTO needs answers",
        "",
    ),
    "no worse answer": (
        PAIRS,
        {"ranking": True, "columns": {"prompt": "instruction", "chosen": "chosen"}},
        "BadDatasetInfo",
        "`ranking` is true, so `columns` must name `chosen` and `rejected`",
        "Name the columns",
    ),
    "a column that is not there": (
        PAIRS,
        {"ranking": True, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "bad"}},
        "MissingColumn",
        "has no column `bad`",
        "Correct `columns` of the entry",
    ),
    "pictures": (
        PAIRS,
        {"ranking": True, "columns": {"prompt": "q", "chosen": "a", "rejected": "b", "images": "i"}},
        "MediaData",
        "is media",
        "Only text",
    ),
}


@pytest.mark.parametrize("name", UNFIT_ENTRIES)
def test_unfit_entries(tmp_path: Path, name: str) -> None:
    """An entry of another kind of data is refused with the method that would take it."""
    kind, entry, reason, words, hint = UNFIT_ENTRIES[name]
    described(tmp_path, entry, ALPACA)
    with pytest.raises(StageError) as caught:
        reader_for(dataset(datasetInfo="shop"), tmp_path, kind)
    assert caught.value.reason == reason
    assert caught.value.message.startswith("dataset `faq`")
    assert words in caught.value.message
    assert hint in caught.value.hint
