"""Sources that come with the job, that a dataset_info.json names, and GGUF files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.builders import stage_config
from support.file_server import Repository
from support.hub_server import HubServer
from tunesmith_stages.contract import ExitCode, StageConfig, StageName
from tunesmith_stages.fetch.stage import resolved
from tunesmith_stages.rehearse.empty_model import empty_gguf
from tunesmith_stages.volume import Volume
from unit.fetch.hubs import failure, play, result, stored

UNIT = "dataset:faq"


def unit(
    root: Path, source: Mapping[str, Any], kind: str = "datasets", runtime: Mapping[str, Any] | None = None
) -> StageConfig:
    """Return the stage.json of a unit with this source."""
    params = {"kind": kind, "source": source, "refresh": ""}
    told = {"resolve": True, **(runtime or {})}
    return stage_config(root, StageName.FETCH, params=params, unit=UNIT, runtime=told)


def version(config: StageConfig) -> str:
    """Return the version of the source."""
    return str(resolved(Volume(Path(config.volume)), config.units[0], config.runtime).params["refresh"])


# --- with the job ----------------------------------------------------------------------------------------------------


def test_inline_rows(tmp_path: Path) -> None:
    """Rows in the job itself become a file of JSON lines; the text is in the key, so there is no version."""
    config = unit(tmp_path, {"inline": '{"a": "é"}\n{"a": 2}\n'})
    assert stored(config) == {"inline.jsonl": '{"a": "é"}\n{"a": 2}\n'.encode()}
    assert version(config) == ""


def in_config_map(root: Path, key: str, file: Path | None) -> StageConfig:
    runtime = {"configMaps": {UNIT: str(file)} if file else {}}
    return unit(root, {"configMap": {"name": "rows", "key": key}}, runtime=runtime)


def test_config_map(tmp_path: Path) -> None:
    """A ConfigMap's key is a file of that name; its version is its content, wherever it is mounted."""
    for place in ("a", "b"):
        (tmp_path / place).write_text("x,y\n")
    (tmp_path / "link").symlink_to("a")  # as the kubelet mounts them
    config = in_config_map(tmp_path, "faq.csv", tmp_path / "link")
    assert stored(config) == {"faq.csv": b"x,y\n"}
    assert version(config) == version(in_config_map(tmp_path, "faq.csv", tmp_path / "b"))
    assert version(config) == hashlib.sha256(b"x,y\n").hexdigest()


@pytest.mark.parametrize(
    ("key", "there", "reason"),
    [
        ("faq.yaml", True, "UnknownFileType"),
        ("faq.json", False, "ConfigMapNotFound"),
        ("a/b.json", True, "UnknownFileType"),
        (".jsonl", True, "UnknownFileType"),
        ("dataset_info.json", True, "UnknownFileType"),
    ],
)
def test_bad_config_map(tmp_path: Path, key: str, there: bool, reason: str) -> None:
    """A key that names no format, and a ConfigMap that is not there, are refused by name."""
    (tmp_path / "file").write_text("[]")
    found = failure(in_config_map(tmp_path, key, tmp_path / "file" if there else tmp_path / "none"))
    assert found.reason == reason
    assert f"{key!r}" in found.message


# --- dataset_info.json on the volume ---------------------------------------------------------------------------------


def named(root: Path, entry: object, **files: str) -> StageConfig:
    """Return the unit of an entry of a dataset_info.json in the folder ``data``, which has these files as well."""
    folder = root / "data"
    folder.mkdir(exist_ok=True)
    (folder / "dataset_info.json").write_text(json.dumps({"faq": entry, "other": {"file_name": "x.json"}}))
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return unit(root, {"volume": {"path": "data"}, "datasetInfo": "faq"})


@pytest.mark.parametrize(
    ("file_name", "wanted"), [("faq.json", {"faq.json"}), ("sub/faq.json", {"sub/faq.json"}), ("sub", {"sub/faq.json"})]
)
def test_entry_that_names_a_file(tmp_path: Path, file_name: str, wanted: set[str]) -> None:
    """The entry's file or folder is stored under its path, with the entry alone beside it."""
    entry = {"file_name": file_name, "columns": {"prompt": "q"}}
    config = named(tmp_path, entry, faq_json="[]", sub__faq_json="[1]", x_json="[2]")
    files = stored(config)
    assert files.keys() == {"dataset_info.json", *wanted}
    assert json.loads(files["dataset_info.json"]) == {"faq": entry}


def test_version_of_an_entry(tmp_path: Path) -> None:
    """A change of the entry, or of what it leads to below the folder, is another version."""
    before = version(named(tmp_path, {"file_name": "sub/faq.json"}, sub__faq_json="[]"))
    assert version(named(tmp_path, {"file_name": "sub/faq.json"}, sub__faq_json="[1]")) != before
    plain = named(tmp_path, {"file_name": "faq.json"}, faq_json="[]")
    assert version(plain) == Volume(tmp_path).version("data")


def test_entry_that_names_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry's repository is fetched with its subset, split and folder; a new commit is a new version."""
    files = {"v2/train.json": "[]", "v2/test.json": "[1]", "v1/test.json": "[2]"}
    server = HubServer({"datasets/o/n": Repository.of(files)})
    play(monkeypatch, "huggingFace", server, tmp_path)
    entry = {"hf_hub_url": "o/n", "ms_hub_url": "a/b", "folder": "v2", "split": "test"}
    with server.running():
        config = named(tmp_path, entry)
        made = stored(config)
        before = version(config)
        server.repositories["datasets/o/n"] = Repository.of({**files, "v2/test.json": "[3]"})
        assert version(config) != before
    assert made.pop("v2/test.json") == b"[1]"
    assert {name: json.loads(text) for name, text in made.items()} == {"dataset_info.json": {"faq": entry}}


def test_repository_of_an_entry_that_moves_on_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources before it may take hours: nothing is stored under a version that it is not of."""
    server = HubServer({"datasets/o/n": Repository.of({"train.json": "[]"})})
    play(monkeypatch, "huggingFace", server, tmp_path)
    with server.running():
        config = named(tmp_path, {"hf_hub_url": "o/n"})
        looked_up = resolved(Volume(tmp_path), config.units[0], config.runtime)
        server.repositories["datasets/o/n"] = Repository.of({"train.json": "[1]"})
        found = failure(dataclasses.replace(config, units=(looked_up,), runtime={}))
    assert found.code is ExitCode.TEMPORARY
    assert "has changed since it was looked up" in found.message
    assert not list((tmp_path / "store" / "datasets").glob("*"))


BAD_ENTRIES: dict[str, tuple[object, str, str]] = {
    "leads nowhere": ({"file_name": "none.json"}, "SourceNotFound", "data/none.json"),
    "leads up": ({"file_name": "../x.json"}, "BadDatasetInfo", "leads out of the folder"),
    "leads out by a link": ({"file_name": "link.json"}, "UnsafePath", "leads out of the volume"),
    "another kind of file": ({"file_name": "a.zip"}, "UnknownFileType", "a.zip"),
    "media": ({"file_name": "x.json", "columns": {"images": "i"}}, "MediaData", "media"),
    "no object": (["x.json"], "BadDatasetInfo", "must be an object"),
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_bad_entry(tmp_path: Path, name: str) -> None:
    """An entry that leads nowhere, out, or to what cannot be learnt is refused, and nothing is stored."""
    entry, reason, words = BAD_ENTRIES[name]
    root = tmp_path / "volume"
    root.mkdir()
    (tmp_path / "out.json").write_text("[]")
    config = named(root, entry, x_json="[]")
    (root / "data" / "a.zip").write_text("x")
    (root / "data" / "link.json").symlink_to(tmp_path / "out.json")
    found = failure(config)
    assert found.reason == reason
    assert words in found.message
    assert not (root / "store").exists()


def test_no_such_entry(tmp_path: Path) -> None:
    """A name that the list does not have is told with those that it has."""
    config = named(tmp_path, {"file_name": "x.json"})
    source = {**config.units[0].params["source"], "datasetInfo": "fag"}
    config = unit(tmp_path, source)
    assert "`faq`, `other`" in failure(config).message
    (tmp_path / "data" / "dataset_info.json").unlink()
    assert failure(dataclasses.replace(config, attempt="2")).reason == "SourceNotFound"


@pytest.mark.parametrize("kind", ["a pipe", "a link out"])
def test_list_that_is_no_file(tmp_path: Path, kind: str) -> None:
    """A list of datasets that is a pipe is not waited for, and a link out is not followed: nor when it is looked up."""
    root = tmp_path / "volume"
    root.mkdir()
    config = named(root, {"file_name": "x.json"}, x_json="[]")
    place = root / "data" / "dataset_info.json"
    if kind == "a pipe":
        place.unlink()
        os.mkfifo(place)
    else:
        place.rename(tmp_path / "dataset_info.json")
        place.symlink_to(tmp_path / "dataset_info.json")
    assert version(config) == ""
    assert failure(config).reason == "UnsafePath"


# --- GGUF ------------------------------------------------------------------------------------------------------------


def gguf_with(path: Path, *, tensors: int = 1, parts: int = 0) -> None:
    """Write a GGUF with as many tensors of one number, and as one of so many parts."""
    import struct

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, 2 if parts else 1)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    if parts:
        head += text("split.count") + struct.pack("<IH", 2, parts)
    infos = b"".join(text(f"t{n}") + struct.pack("<IQIQ", 1, 1, 0, 32 * n) for n in range(tensors))
    path.write_bytes(head + infos + bytes(-(len(head + infos)) % 32 + 32 * tensors))


def gguf(root: Path, path: str) -> StageConfig:
    return unit(root, {"gguf": {"path": path}}, "models")


def test_gguf_file(tmp_path: Path) -> None:
    """A GGUF file is stored as model.gguf, with its architecture; it is another source when it changes."""
    gguf_with(tmp_path / "base.gguf")
    config = gguf(tmp_path, "base.gguf")
    assert stored(config) == {"model.gguf": (tmp_path / "base.gguf").read_bytes()}
    assert result(config).outputs["architecture"] == "llama"
    before = version(config)
    gguf_with(tmp_path / "base.gguf", tensors=2)
    assert version(config) != before


BAD_GGUF = {
    "not there": ("none.gguf", ExitCode.MISSING_INPUT, "SourceNotFound"),
    "a folder": ("folder", ExitCode.BAD_DATA, "NotAGguf"),
    "another kind of file": ("x.gguf", ExitCode.BAD_DATA, "NotAGguf"),
    "cut in its head": ("cut.gguf", ExitCode.BAD_DATA, "NotAGguf"),
    "without tensors": ("empty.gguf", ExitCode.BAD_DATA, "NotAGguf"),
    "a part by its name": ("m-00001-of-00003.gguf", ExitCode.BAD_DATA, "GgufInParts"),
    "a part by what it says": ("part.gguf", ExitCode.BAD_DATA, "GgufInParts"),
    "out of the volume": ("../x.gguf", ExitCode.BAD_CONFIG, "UnsafePath"),
}


@pytest.mark.parametrize("name", BAD_GGUF)
def test_bad_gguf(tmp_path: Path, name: str) -> None:
    """What is no whole GGUF file with a model is refused; of parts it is said how they are joined."""
    path, code, reason = BAD_GGUF[name]
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.gguf").write_text("GGML and nothing more")
    for file in ("cut.gguf", "m-00001-of-00003.gguf"):
        gguf_with(tmp_path / file)
    gguf_with(tmp_path / "part.gguf", parts=3)
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "cut.gguf").read_bytes()[:40])
    (tmp_path / "empty.gguf").write_bytes(empty_gguf("x"))
    found = failure(gguf(tmp_path, path))
    assert (found.code, found.reason) == (code, reason)
    assert reason != "GgufInParts" or "llama-gguf-split --merge" in found.hint
