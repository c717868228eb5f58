from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.file_server import FileServer, Repository
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.fetch.hub import pinned
from unit.fetch.hubs import SERVERS, asking, failure, play, repositories, result, run, stored

FILES = {
    "data/train.jsonl": '{"a": 1}\n',
    "data/test.jsonl": '{"a": 2}\n',
    "load.py": "raise SystemExit\n",
    "README.md": "-",
}


@pytest.fixture
def hub(form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    """Return a hub with a dataset."""
    server = SERVERS[form](repositories(FILES, "datasets"))
    play(monkeypatch, form, server, tmp_path)
    with server.running():
        yield server


def holds(hub: Any, files: Mapping[str, bytes | str]) -> Repository:
    """Let the dataset have these files."""
    repository = Repository.of(files)
    hub.repositories["datasets/o/n"] = repository
    return repository


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("more", "wanted"), [({}, "train"), ({"split": "test"}, "test")])
def test_split_comes_in_its_folder(root: Path, form: str, more: dict[str, Any], wanted: str) -> None:
    """The files of the split lie in the store under their paths; nothing else of the repository does."""
    path = f"data/{wanted}.jsonl"
    assert stored(asking(root, form, "datasets", **more)) == {path: FILES[path].encode()}


def test_card_tells_the_files(root: Path, form: str, hub: FileServer) -> None:
    """Subset and split are those of the repository's card, which itself is only read."""
    text = "---\nconfigs:\n- config_name: small\n  data_files: x/[ab].json\n---\n"
    holds(hub, {"README.md": text, "x/a.json": "[]", "x/b.json": "[1]", "x/c.json": "[2]"})
    assert stored(asking(root, form, "datasets", subset="small")) == {"x/a.json": b"[]", "x/b.json": b"[1]"}


def test_many_files(root: Path, form: str, hub: FileServer) -> None:
    """A list of files that comes in several pages is read to its end."""
    many = {"huggingFace": 8, "modelScope": 210}[form]  # more than a page of the server, or of the client
    holds(hub, {f"train/{number:03}.jsonl": f"{number}\n" for number in range(many)})
    report = run(asking(root, form, "datasets", split="validation")).failure
    assert report is not None
    assert "it has train" in report.message
    found = len({request.query.get("cursor") or request.query.get("PageNumber") for request in hub.requests})
    assert found > 1


@pytest.mark.usefixtures("hub")
def test_script_is_not_run(root: Path, form: str, hub: FileServer) -> None:
    """A repository with nothing but a loading script is refused, for its code would have to be run."""
    holds(hub, {"load.py": "raise SystemExit\n", "README.md": "-"})
    found = failure(asking(root, form, "datasets"))
    assert (found.code, found.reason) == (ExitCode.BAD_DATA, "LoadingScript")


# --- LLaMA-Factory's dataset_info.json -------------------------------------------------------------------------------


def info(**entry: Any) -> str:
    return json.dumps({"faq": entry, "other": {"file_name": "other.json"}})


def test_entry_of_a_repository(root: Path, form: str, hub: FileServer) -> None:
    """Of a repository with a dataset_info.json the entry's files come, and the entry alone."""
    repository = holds(
        hub, {"dataset_info.json": info(file_name="d"), "d/a.json": "[]", "d/b/c.csv": "a\n1\n", "x.json": "[]"}
    )
    config = asking(root, form, "datasets", datasetInfo="faq")
    assert stored(config) == {
        "d/a.json": b"[]",
        "d/b/c.csv": b"a\n1\n",
        "dataset_info.json": json.dumps({"faq": {"file_name": "d"}}, indent=2).encode() + b"\n",
    }
    assert pinned(run(config).units[0].version) == repository.commit


BAD_ENTRIES: dict[str, tuple[dict[str, Any], str, str]] = {
    "leads nowhere": ({"file_name": "none.json"}, "SourceNotFound", "'none.json'"),
    "leads up": ({"file_name": "../x.json"}, "BadDatasetInfo", "leads out of the folder"),
    "leads to another repository": ({"hf_hub_url": "a/b"}, "BadDatasetInfo", "leads to another repository"),
    "leads to a script": ({"script_url": "load"}, "BadDatasetInfo", "script"),
    "is of media": ({"file_name": "x.json", "columns": {"images": "i"}}, "MediaData", "media"),
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_bad_entry_of_a_repository(root: Path, form: str, hub: FileServer, name: str) -> None:
    """An entry that leads elsewhere, or that cannot be learnt, is refused before any data come."""
    entry, reason, words = BAD_ENTRIES[name]
    holds(hub, {"dataset_info.json": info(**entry), "x.json": "[]"})
    found = failure(asking(root, form, "datasets", datasetInfo="faq"))
    assert found.reason == reason
    assert words in found.message
    assert not hub.asked_for("x.json")


def test_entry_of_preferences(root: Path, form: str, hub: FileServer) -> None:
    """Answers to compare are brought as any rows are: whether the job learns from them is seen where they are read."""
    columns = {"prompt": "q", "chosen": "a", "rejected": "b"}
    holds(hub, {"dataset_info.json": info(file_name="x.json", ranking=True, columns=columns), "x.json": "[]"})
    assert stored(asking(root, form, "datasets", datasetInfo="faq"))["x.json"] == b"[]"


def test_repository_without_the_list(root: Path, form: str, hub: FileServer) -> None:
    """Without a dataset_info.json there is no entry to take."""
    holds(hub, {"x.json": "[]"})
    assert failure(asking(root, form, "datasets", datasetInfo="faq")).reason == "SourceNotFound"


def test_result_tells_the_commit(root: Path, form: str, hub: FileServer) -> None:
    """What was fetched says which commit it is of."""
    assert result(asking(root, form, "datasets")).outputs["commit"] == holds(hub, FILES).commit
