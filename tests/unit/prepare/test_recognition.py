from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.dataset_files import dataset, read_all
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.bad_rows import BadRows
from tunesmith_stages.prepare.recognition import reader_for, reader_of
from tunesmith_stages.prepare.row import BadRow, Row
from tunesmith_stages.program import StageError

ALPACA = {"instruction": "Hi", "output": "Hello"}
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]

FOUND: dict[str, tuple[Mapping[str, Any], dict[str, Any], str]] = {
    "Alpaca": (ALPACA, {}, "Alpaca: the rows have the columns `instruction` and `output`."),
    "columns that are not used": (
        {**ALPACA, "id": 5, "input": "", "source": "x"},
        {},
        "Alpaca: the rows have the columns `instruction` and `output`. Not used: `id`, `source`.",
    ),
    "many columns that are not used": (
        {**ALPACA, **{f"c{number}": 1 for number in range(12)}},
        {},
        "`c0`, `c1`, `c2`, `c3`, `c4`, `c5`, `c6`, `c7`, `c8`, `c9` and 2 more.",
    ),
    "named columns": (
        {"q": "Hi", "a": "Hello"},
        {"columns": {"prompt": "q", "response": "a"}},
        "Alpaca: the rows have the columns `q` and `a`.",
    ),
    "ShareGPT": ({"conversations": SHARED}, {}, "ShareGPT: `conversations` holds messages with `from` and `value`."),
    "ShareGPT with roles": ({"conversations": TALK}, {}, "ShareGPT: `conversations` holds messages with a role and a"),
    "one conversation": ({"conversation": SHARED}, {}, "ShareGPT: `conversation` holds messages with `from`"),
    "ShareGPT under OpenAI's name": ({"messages": SHARED}, {}, "ShareGPT: `messages` holds messages with `from` and"),
    "ShareGPT in a CSV file": ({"messages": json.dumps(SHARED)}, {}, "ShareGPT: `messages` holds messages with `from`"),
    "tags": ({"conversations": SHARED}, {"tags": {"user": "human"}}, "ShareGPT: as `tags` says."),
    "Messages": ({"messages": TALK}, {}, "Messages: `messages` holds messages with a role and a content."),
    "prompt and completion": (
        {"prompt": "Hi", "completion": "Hello"},
        {},
        "PromptCompletion: the rows have the columns `prompt` and `completion`.",
    ),
    "lists in named columns": (
        {"q": TALK[:1], "a": TALK[1:]},
        {"columns": {"prompt": "q", "response": "a"}},
        "PromptCompletion: the rows have the columns `q` and `a`.",
    ),
    "text": ({"text": "Hi", "url": "x"}, {}, "Text: the rows have the column `text`. Not used: `url`."),
    "named text": ({"body": "Hi"}, {"columns": {"text": "body"}}, "Text: the rows have the column `body`."),
    "what is asked for": (
        {**ALPACA, "text": "x"},
        {"format": "Text"},
        "Text: as `format` says. Not used: `instruction`",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_and_why(name: str) -> None:
    """The report says what the rows were taken for, by which sign, and which columns nothing is read from."""
    data, changes, words = FOUND[name]
    reader = reader_of(dataset(**changes), [Row("a.json, row 1", data)])
    assert words in reader.found
    assert reader.found.startswith(f"{reader.format}: ")
    assert reader.read(Row("a.json, row 1", data)).place == "a.json, row 1"


PREFERENCES: dict[str, tuple[Mapping[str, Any], dict[str, Any]]] = {
    "chosen and rejected": ({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, {}),
    "in conversations": ({"conversations": SHARED[:1], "chosen": SHARED[1], "rejected": SHARED[1]}, {}),
    "whole conversations": ({"chosen_messages": TALK, "rejected_messages": TALK}, {}),
    "a format is named": ({**ALPACA, "chosen": "Hello", "rejected": "No"}, {"format": "Alpaca"}),
    "KTO": ({"messages": TALK, "label": True}, {}),
    "KTO of TRL": ({"prompt": "Hi", "completion": "Hello", "label": False}, {}),
    "KTO of LLaMA-Factory": ({"conversations": SHARED, "kto_tag": True}, {"format": "ShareGPT"}),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preference_data(name: str) -> None:
    """Rows that compare answers are refused by that word, with what could be done."""
    data, changes = PREFERENCES[name]
    with pytest.raises(StageError) as caught:
        reader_of(dataset(**changes), [Row("a.json, row 1", data)])
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "PreferenceData")
    assert "dataset `faq` (a.json, row 1) is preference data (ranking)" in caught.value.message
    assert ("training.method: KTO" if "KTO" in name else "training.method` to DPO or ORPO") in caught.value.hint
    assert "KTO" in name or "response: chosen" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (
            {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
            {"columns": {"prompt": "prompt", "response": "chosen"}},
        ),
        ({"messages": TALK, "label": "greeting"}, {}),
        ({"messages": TALK, "label": True}, {"format": "Messages"}),
    ],
)
def test_no_preference_data(data: Mapping[str, Any], changes: dict[str, Any]) -> None:
    """Whoever names the answers to learn may learn them, and a column called label may be another thing."""
    found = reader_of(dataset(**changes), [Row("a.json, row 1", data)]).read(Row("a.json, row 1", data))
    assert [message["content"] for message in found.messages] == ["Hi", "Hello"]


def test_one_word_for_two_roles() -> None:
    """Tags that cannot be told apart are refused before any row is read."""
    with pytest.raises(StageError) as caught:
        reader_of(dataset(tags={"user": "x", "assistant": "x"}), [Row("a.json, row 1", {"conversations": SHARED})])
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "BadTags")
    assert "`tags` has one word for two things: x, x" in caught.value.message


# --- from files ------------------------------------------------------------------------------------------------------


EMPTY: dict[str, dict[str, str]] = {
    "no files": {},
    "an empty file": {"a.jsonl": ""},
    "blank lines": {"a.jsonl": "\n \n"},
    "an empty list": {"a.json": "[]"},
    "a header alone": {"a.csv": "instruction,output\n"},
    "no data files": {"README.md": "# FAQ"},
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_dataset(tmp_path: Path, name: str) -> None:
    """A dataset without a row is refused by its name."""
    for file, text in EMPTY[name].items():
        (tmp_path / file).write_text(text)
    with pytest.raises(StageError) as caught:
        reader_for(dataset(), tmp_path)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "EmptyDataset")
    assert "dataset `faq` is empty" in caught.value.message


def test_a_bad_first_row(tmp_path: Path) -> None:
    """A first row that cannot be parsed ends the stage, or is passed over, as the job says."""
    (tmp_path / "a.jsonl").write_text("{\n" + json.dumps(ALPACA) + "\n")
    with pytest.raises(StageError) as caught:
        reader_for(dataset(), tmp_path)
    assert caught.value.message.startswith("dataset `faq`, a.jsonl, line 1 is not JSON")
    assert reader_for(dataset(onBadRow="Skip"), tmp_path).format == "Alpaca"


@pytest.mark.parametrize("named", ["Auto", "Alpaca"])
@pytest.mark.parametrize("first", [{"note": "x"}, {"instruction": "Hi"}])
def test_a_first_row_without_the_columns(tmp_path: Path, first: Mapping[str, Any], named: str) -> None:
    """Rows that lack a column may be passed over wherever they stand, the first included."""
    (tmp_path / "a.json").write_text(json.dumps([first, ALPACA]))
    found = read_all(tmp_path, onBadRow="Skip", format=named)
    assert [isinstance(row, BadRow) for row in found] == [True, False]
    with pytest.raises(StageError, match=r"a.json, row 1\) has no column"):
        reader_for(dataset(format=named), tmp_path)


def test_all_rows_lack_the_columns(tmp_path: Path) -> None:
    """Where no row has the columns, the first is named, whatever may be passed over."""
    (tmp_path / "a.json").write_text('[{"note": "x"}, {"note": "y"}]')
    with pytest.raises(StageError, match=r"a.json, row 1\) has no column `instruction`; it has `note`"):
        reader_for(dataset(onBadRow="Skip"), tmp_path)


def test_all_rows_are_bad(tmp_path: Path) -> None:
    """Where no row can be parsed, skipping does not make an empty dataset of it."""
    (tmp_path / "a.jsonl").write_text("{\n{\n")
    with pytest.raises(StageError) as caught:
        reader_for(dataset(onBadRow="Skip"), tmp_path)
    assert caught.value.message.startswith("dataset `faq`, a.jsonl, line 1 is not JSON")


def test_a_column_that_rows_may_lack_is_looked_for_in_many(tmp_path: Path) -> None:
    """A named column is found if a later row has it."""
    rows = [ALPACA] * 900 + [{**ALPACA, "context": "there"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert reader_for(dataset(columns={"query": "context"}), tmp_path).format == "Alpaca"
    with pytest.raises(StageError, match="has no column `contxt`"):
        reader_for(dataset(columns={"query": "contxt"}), tmp_path)


def test_long_rows_are_not_held(tmp_path: Path) -> None:
    """Looking for columns in many rows takes no more memory than a few of them, however long they are."""
    row = json.dumps({"text": "x" * 500_000}) + "\n"
    (tmp_path / "a.jsonl").write_text(row * 60)
    tracemalloc.start()
    try:
        reader_for(dataset(), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 15_000_000
    finally:
        tracemalloc.stop()


def test_mixed_formats_in_one_file(tmp_path: Path) -> None:
    """Rows of another format than the first are bad ones, each named with what it looks like."""
    rows = [ALPACA, {"messages": TALK}, {"text": "Hi"}, {"prompt": "x", "chosen": "y", "rejected": "z"}, ALPACA]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_all(tmp_path)
    hints = [row.hint if isinstance(row, BadRow) else "" for row in found]
    assert ["looks like" in hint for hint in hints] == [False, True, True, True, False]
    for hint, what in zip(hints[1:4], ("Messages", "Text", "preference data"), strict=True):
        assert hint.startswith(f"This row looks like {what}, but the dataset is Alpaca")
    assert isinstance(found[1], BadRow)
    assert found[1].message == "a.jsonl, line 2: `instruction` is missing"


# --- bad rows --------------------------------------------------------------------------------------------------------


BAD = BadRow("a.jsonl, line 2", "a.jsonl, line 2: `output` is empty", "BadRow", "Fill it in.")


def test_the_first_bad_row_ends_the_stage() -> None:
    """`Fail` names dataset, file, row and field."""
    with pytest.raises(StageError) as caught:
        BadRows("faq", "Fail").add(BAD)
    error = caught.value
    assert (error.code, error.reason, error.hint) == (ExitCode.BAD_DATA, "BadRow", "Fill it in.")
    assert error.message == "dataset `faq`, a.jsonl, line 2: `output` is empty"


def test_bad_rows_are_counted() -> None:
    """`Skip` counts all bad rows, and keeps twenty sentences about the first."""
    bad = BadRows("faq", "Skip")
    for number in range(25):
        bad.add(BadRow(str(number), f"row {number}", "BadRow", ""))
    assert (bad.number, bad.examples) == (25, [f"row {number}" for number in range(20)])
    bad.check(26)
    with pytest.raises(StageError) as caught:
        bad.check(25)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "NoUsableRows")
    assert "none of its 25 rows can be used; the first: row 0" in caught.value.message
