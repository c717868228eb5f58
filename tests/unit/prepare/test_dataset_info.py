from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.dataset_files import dataset, read_all
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.dataset_info import entry_alone, read_entry
from tunesmith_stages.prepare.recognition import reader_for
from tunesmith_stages.program import StageError

ALPACA = {"instruction": "Hi", "input": "there", "output": "Hello", "system": "Be kind."}
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ROLES = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
SAID = [("user", "Hi"), ("assistant", "Hello")]


def write(folder: Path, entry: dict[str, Any], row: dict[str, Any]) -> None:
    (folder / "dataset_info.json").write_text(json.dumps({"shop": {"file_name": "shop.jsonl", **entry}}))
    (folder / "shop.jsonl").write_text(json.dumps(row) + "\n")


GOOD: dict[str, tuple[dict[str, Any], dict[str, Any], str, list[tuple[str, str]]]] = {
    "nothing but a file": ({}, ALPACA, "Alpaca", [("user", "Hi\nthere"), ("assistant", "Hello")]),
    "columns of Alpaca": (
        {"columns": {"prompt": "q", "response": "a", "system": "s", "query": None}},
        {"q": "Hi", "a": "Hello", "s": "Be kind.", "input": "no"},
        "Alpaca",
        [("system", "Be kind."), *SAID],
    ),
    "a column that is not named is none": (
        {"columns": {"prompt": "instruction", "response": "output"}},
        ALPACA,
        "Alpaca",
        SAID,
    ),
    "history": (
        {"columns": {"prompt": "instruction", "response": "output", "history": "before"}},
        {**ALPACA, "before": [["One", "1"]]},
        "Alpaca",
        [("user", "One"), ("assistant", "1"), *SAID],
    ),
    "a query alone": ({"columns": {"query": "input", "response": "output"}}, {**ALPACA, "input": "Hi"}, "Alpaca", SAID),
    "ShareGPT": ({"formatting": "sharegpt"}, {"conversations": SHARED, "system": "no"}, "ShareGPT", SAID),
    "ShareGPT with columns": (
        {"formatting": "sharegpt", "columns": {"messages": "talk", "system": "s"}},
        {"talk": SHARED, "s": "Be kind."},
        "ShareGPT",
        [("system", "Be kind."), *SAID],
    ),
    "ShareGPT with tags": (
        {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": ROLES},
        {"messages": TALK},
        "ShareGPT",
        SAID,
    ),
    "OpenAI": (
        {"formatting": "openai", "columns": {"messages": "messages"}, "tags": {**ROLES, "observation_tag": "tool"}},
        {"messages": TALK},
        "Messages",
        SAID,
    ),
    "fields that are null": (
        {"formatting": None, "columns": None, "tags": None, "split": None, "num_samples": None, "ranking": False},
        {"instruction": "Hi", "output": "Hello"},
        "Alpaca",
        SAID,
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_rows_as_the_entry_describes_them(tmp_path: Path, name: str) -> None:
    """An entry's columns, tags and formatting mean what they mean in LLaMA-Factory."""
    entry, row, format_, messages = GOOD[name]
    write(tmp_path, entry, row)
    reader = reader_for(dataset(datasetInfo="shop"), tmp_path)
    assert reader.format == format_
    assert reader.found.startswith(f"{format_}: as the entry `shop` of dataset_info.json says")
    (found,) = read_all(tmp_path, datasetInfo="shop")
    assert isinstance(found, Conversation)
    assert [(message["role"], message["content"]) for message in found.messages] == messages


@pytest.mark.parametrize("file", ["shop.jsonl", "shop.txt"])
def test_a_prompt_without_a_response_is_plain_text(tmp_path: Path, file: str) -> None:
    """LLaMA-Factory's entries for pre-training name the text as the prompt, and no response."""
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"shop": {"file_name": file, "columns": {"prompt": "text"}}})
    )
    (tmp_path / file).write_text("Once.\n" if file.endswith("txt") else '{"text": "Once."}\n')
    (found,) = read_all(tmp_path, datasetInfo="shop")
    assert isinstance(found, Conversation)
    assert (found.text, found.messages) == ("Once.", ())


def test_tools_of_an_entry(tmp_path: Path) -> None:
    """The column with tools is read where the entry names it, and not elsewhere."""
    row = {"conversations": SHARED, "tools": json.dumps([{"name": "look"}])}
    for columns, tools in (
        ({"messages": "conversations", "tools": "tools"}, [{"type": "function", "function": {"name": "look"}}]),
        ({"messages": "conversations"}, None),
    ):
        write(tmp_path, {"formatting": "sharegpt", "columns": columns}, row)
        (found,) = read_all(tmp_path, datasetInfo="shop")
        assert isinstance(found, Conversation)
        assert found.tools == tools


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    """A field that no LLaMA-Factory is known to have is named in what was found, as is a column that is not used."""
    entry = {
        "colums": {},
        "columns": {"prompt": "instruction", "response": "output", "foo": "x"},
        "tags": {"bar_tag": "y"},
    }
    write(tmp_path, entry, {"instruction": "Hi", "output": "Hello", "id": 5})
    found = reader_for(dataset(datasetInfo="shop"), tmp_path).found
    assert found == (
        "Alpaca: as the entry `shop` of dataset_info.json says; of its fields `colums`, `columns.foo`, `tags.bar_tag` "
        "are not known and not used. Not used: `id`."
    )


def test_number_of_samples(tmp_path: Path) -> None:
    """An entry may say how many rows to use."""
    write(tmp_path, {"num_samples": 7}, ALPACA)
    assert reader_for(dataset(datasetInfo="shop"), tmp_path).num_samples == 7


def test_a_hub_has_precedence_over_a_file() -> None:
    """With a hub's repository in the entry its file is not looked at, as in LLaMA-Factory."""
    entry = {
        "hf_hub_url": "shop/faq",
        "ms_hub_url": "shop/faq-ms",
        "file_name": "../x",
        "subset": "en",
        "split": "full",
    }
    found = read_entry(json.dumps({"shop": entry}).encode(), "shop")
    assert found.hubs == {"huggingFace": "shop/faq", "modelScope": "shop/faq-ms"}
    assert (found.file_name, found.subset, found.split) == (None, "en", "full")


def test_an_entry_alone() -> None:
    """What is stored beside the rows is this entry, unchanged."""
    entry = {"file_name": "a/é.json", "foo": [1]}
    content = b"\xef\xbb\xbf" + json.dumps({"other": {}, "shop": entry}).encode()
    assert json.loads(entry_alone(content, "shop")) == {"shop": entry}
    assert read_entry(content, "shop").file_name == "a/é.json"


def info(**entry: Any) -> bytes:
    return json.dumps({"shop": entry}).encode()


BAD: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "dataset_info.json: is not JSON"),
    "not UTF-8": (b'{"shop": "\xe9"}', "dataset_info.json: is not JSON: 'utf-8' codec"),
    "a list": (b"[]", "must hold an object"),
    "nested too deeply": (b'{"x": ' + b"[" * 100_000, "it is nested too deeply"),
    "another entry": (b'{"faq": {}, "bar": {}}', "has no entry `shop`; it has `faq`, `bar`"),
    "no entries": (b"{}", "has no entry `shop`; it has none"),
    "an entry that is a text": (b'{"shop": "shop.json"}', "entry `shop` must be an object"),
    "nowhere": (info(formatting="alpaca"), "entry `shop` leads nowhere"),
    "upward": (info(file_name="../shop.json"), "entry `shop`: `file_name` '../shop.json' leads out of the folder"),
    "upward further on": (info(file_name="a/../../shop.json"), "leads out of the folder"),
    "the root": (info(file_name="/etc/passwd"), "leads out of the folder"),
    "a Windows path": (info(file_name="C:\\shop.json"), "leads out of the folder"),
    "a NUL": (info(file_name="a\0"), "leads out of the folder"),
    "a file name that is a list": (info(file_name=["a"]), "`file_name` must be a text"),
    "a script": (info(script_url="shop", file_name="a.json"), "leads to a script, which would be run"),
    "a cloud": (info(cloud_file_name="s3://x"), "leads to a file in a cloud's storage"),
    "another hub": (info(om_hub_url="x/y"), "leads to a hub that is not known"),
    "another formatting": (
        info(file_name="a", formatting="chatml"),
        "`formatting` must be one of alpaca, sharegpt, openai",
    ),
    "columns in a list": (info(file_name="a", columns=["x"]), "`columns` must be an object of names"),
    "a column that is a number": (info(file_name="a", columns={"prompt": 1}), "`columns` must be an object of names"),
    "tags in a text": (info(file_name="a", tags="x"), "`tags` must be an object of names"),
    "no samples": (info(file_name="a", num_samples=0), "`num_samples` must be a whole number above 0, got 0"),
    "samples in a text": (info(file_name="a", num_samples="5"), "`num_samples` must be a whole number"),
    "another split": (info(file_name="a", split="test"), "`split` is 'test', but a file has the split `train` alone"),
    "ranking in a text": (info(file_name="a", ranking="yes"), "`ranking` must be true or false"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_entry(name: str) -> None:
    """An entry that leads nowhere, upward or to what is not read is refused, and so is one of the wrong kind."""
    content, words = BAD[name]
    for act in (read_entry, entry_alone):
        with pytest.raises(StageError) as caught:
            act(content, "shop")
        assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "BadDatasetInfo")
        assert words in caught.value.message
        assert len(caught.value.message) < 300
        assert caught.value.hint


UNFIT: dict[str, tuple[dict[str, Any], str, str]] = {
    "ranking": ({"ranking": True}, "PreferenceData", "is preference data (ranking): `ranking` is true"),
    "chosen": ({"columns": {"chosen": "c", "rejected": "r"}}, "PreferenceData", "`columns` has `chosen`"),
    "KTO": ({"columns": {"messages": "m", "kto_tag": "label"}}, "PreferenceData", "`columns` has `kto_tag`"),
    "images": ({"columns": {"images": "images"}}, "MediaData", "is media: `columns` has `images`"),
    "videos": ({"columns": {"videos": "v"}}, "MediaData", "is media: `columns` has `videos`"),
    "audios": ({"columns": {"audios": "a"}}, "MediaData", "is media: `columns` has `audios`"),
    "no response": (
        {"columns": {"prompt": "q", "query": "a"}},
        "BadDatasetInfo",
        "must name a `prompt` and a `response`",
    ),
    "no prompt": ({"columns": {"response": "a"}}, "BadDatasetInfo", "must name a `prompt` and a `response`"),
    "a column that is not there": (
        {"columns": {"prompt": "instruction", "response": "answer"}},
        "MissingColumn",
        "has no column `answer`",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_entry(tmp_path: Path, name: str) -> None:
    """What supervised fine-tuning cannot take is refused with that word, and the dataset's name."""
    entry, reason, words = UNFIT[name]
    write(tmp_path, entry, ALPACA)
    with pytest.raises(StageError) as caught:
        reader_for(dataset("faq", datasetInfo="shop"), tmp_path)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, reason)
    assert caught.value.message.startswith("dataset `faq`")
    assert words in caught.value.message
    assert caught.value.hint
