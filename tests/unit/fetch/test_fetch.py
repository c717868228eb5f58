from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.builders import job, stage_config, work_of, write_base, write_safetensors
from tunesmith.core.model import StageState
from tunesmith.core.plan import plan
from tunesmith.local.run import current_plan
from tunesmith_stages.contract import ExitCode, Failure, Report, StageConfig, StageName, StageResult
from tunesmith_stages.fetch.model_files import check_safetensors
from tunesmith_stages.fetch.stage import fetch, resolved
from tunesmith_stages.fetch.storing import store_copies
from tunesmith_stages.program import Made, StageError, carry_out, run
from tunesmith_stages.volume import UnsafePathError, Volume, sha256_of


@pytest.fixture(scope="session")
def a_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def root(tmp_path: Path, a_base: Path) -> Path:
    """Return a volume with a base model and a dataset."""
    folder = tmp_path / "volume"
    shutil.copytree(a_base, folder / "base")
    (folder / "data").mkdir()
    (folder / "data" / "faq.json").write_text('[{"instruction": "Hi", "output": "Hello"}]')
    (tmp_path / "outside.json").write_text('["secret"]')
    return folder


def params(path: str, kind: str) -> dict[str, Any]:
    return {"kind": kind, "source": {"volume": {"path": path}}, "refresh": ""}


def fetched(root: Path, path: str, kind: str = "models", attempt: str = "1") -> Made:
    return fetch(work_of(stage_config(root, StageName.FETCH, params=params(path, kind), unit="base", attempt=attempt)))


def stored(made: Made) -> dict[str, bytes]:
    assert made.stored is not None
    return {path.name: path.read_bytes() for path in made.stored.iterdir()}


# --- what comes into the store ---------------------------------------------------------------------------------------


def test_model_is_copied_whole(root: Path) -> None:
    """Every file that the model needs lies in the store, byte for byte, with its hash, and no other file."""
    for name in ("notes.md", "pytorch_model.bin", ".hidden"):
        (root / "base" / name).write_text("not needed")
    for name in ("LICENSE", "chat_template.jinja", "merges.txt"):
        (root / "base" / name).write_text(name)
    made = fetched(root, "base")
    wanted = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    wanted |= {"LICENSE", "chat_template.jinja", "merges.txt"}
    assert stored(made) == {name: (root / "base" / name).read_bytes() for name in wanted}
    assert {entry.path: entry.sha256 for entry in made.files} == {
        name: sha256_of(root / "base" / name) for name in wanted
    }
    assert made.outputs == {"architecture": "LlamaForCausalLM", "modelType": "llama", "files": len(wanted)}


def test_dataset_is_a_file_or_a_folder(root: Path) -> None:
    """A file is taken as it is, of a folder its tables; texts if there are no tables; descriptions never."""
    for name in ("more.jsonl", "readme.txt", "story.txt", "dataset_info.json", "a.csv", "b.parquet", ".hidden.json"):
        (root / "data" / name).write_text(name)
    (root / "data" / "old.json").mkdir()
    (root / "texts").mkdir()
    for name in ("story.txt", "LICENSE.txt", "README.md"):
        (root / "texts" / name).write_text(name)
    assert stored(fetched(root, "data/faq.json", "datasets")).keys() == {"faq.json"}
    assert stored(fetched(root, "data", "datasets")).keys() == {"faq.json", "more.jsonl", "a.csv", "b.parquet"}
    assert stored(fetched(root, "texts", "datasets")).keys() == {"story.txt"}


def test_same_content_lies_there_once(root: Path) -> None:
    """A copy of a source elsewhere, or the same fetched again, is the same folder of the store."""
    shutil.copytree(root / "data", root / "copy")
    one = fetched(root, "data/faq.json", "datasets")
    two = fetched(root, "copy/faq.json", "datasets")
    assert one.stored == two.stored
    assert one.files == two.files
    assert one.stored is not None
    assert [path.name for path in sorted(one.stored.parent.iterdir())] == [
        one.stored.name,
        f"{one.stored.name}.manifest.json",
    ]
    manifest = json.loads(one.stored.with_suffix(".manifest.json").read_text())
    assert manifest["digest"] == one.stored.name
    assert [entry["path"] for entry in manifest["files"]] == ["faq.json"]


def test_other_content_lies_elsewhere(root: Path) -> None:
    """A source that changed gets a folder of its own; the earlier one stays for the jobs that used it."""
    one = fetched(root, "data/faq.json", "datasets")
    (root / "data" / "faq.json").write_text("[]")
    two = fetched(root, "data/faq.json", "datasets", attempt="2")
    assert one.stored != two.stored
    assert stored(two) == {"faq.json": b"[]"}
    assert stored(one) != stored(two)


def test_damaged_store_is_mended(root: Path) -> None:
    """A folder of the store that lost a file is replaced by a whole one."""
    made = fetched(root, "base")
    assert made.stored is not None
    (made.stored / "model.safetensors").unlink()
    again = fetched(root, "base", attempt="2")
    assert again.stored == made.stored
    assert "model.safetensors" in stored(again)


def test_result_points_into_the_store(root: Path) -> None:
    """The result's digest is that of the content, and later stages find the folder by its path."""
    config = stage_config(root, StageName.FETCH, params=params("base", "models"), unit="base")
    assert run(config, fetch) is ExitCode.OK
    result = Volume(root).result(StageName.FETCH, config.units[0].key)
    assert isinstance(result, StageResult)
    assert result.path == f"store/models/{result.digest}"
    assert result.unit == "base"
    (root / result.path / "config.json").unlink()
    assert Volume(root).result(StageName.FETCH, config.units[0].key) is None


def test_sharded_model(root: Path) -> None:
    """A model in parts brings its index and every part."""
    _shard(root / "base")
    names = stored(fetched(root, "base")).keys()
    assert {"model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"} <= names
    assert "model.safetensors" not in names


def test_links_inside_the_volume_are_followed(root: Path) -> None:
    """A hub's cache, where files are links to blobs, can be used as it is; its content is copied."""
    (root / "blobs").mkdir()
    (root / "base" / "model.safetensors").rename(root / "blobs" / "abc")
    (root / "base" / "model.safetensors").symlink_to("../blobs/abc")
    (root / "latest").symlink_to("base")
    made = fetched(root, "latest")
    assert made.stored is not None
    assert not (made.stored / "model.safetensors").is_symlink()


@pytest.mark.parametrize(
    ("languages", "has"), [(["en"], (True, False)), (["zh"], (False, True)), (["en", "zh"], (True, True))]
)
def test_built_in_data(tmp_path: Path, languages: list[str], has: tuple[bool, bool]) -> None:
    """The built-in identity comes in the languages that were asked for, with places for name and author."""
    given = {"kind": "datasets", "source": {"builtin": "SelfCognition", "languages": languages}, "refresh": ""}
    made = fetch(work_of(stage_config(tmp_path, StageName.FETCH, params=given, unit="dataset:identity")))
    text = b"".join(stored(made).values()).decode()
    assert len(stored(made)) == len(languages)
    assert "{{name}}" in text
    assert "{{author}}" in text
    assert ("Who are you?" in text, "你是谁" in text) == has


# --- versions that only the volume tells ------------------------------------------------------------------------------

JOB = job(
    {
        "spec.model.volume.path": "base",
        "spec.datasets.+": {"name": "me", "builtin": "SelfCognition", "substitutions": {"name": "T", "author": "A"}},
    }
)


def resolving(root: Path, attempt: str = "1") -> StageConfig:
    """Return the stage.json of an edge that cannot see the volume: its units have no version."""
    units = plan(JOB, {}).stage(StageName.FETCH).units
    return StageConfig(StageName.FETCH, "support-bot", str(root), attempt, units, {"resolve": True})


def local_state(root: Path) -> StageState:
    return current_plan(JOB, Volume(root))[0].stage(StageName.FETCH).state


def test_resolved_sources_are_those_of_the_local_edge(root: Path) -> None:
    """What a program that resolves has fetched, `tunesmith run` finds, and the other way round."""
    first = carry_out(resolving(root), fetch, resolve=resolved)
    assert first.failure is None
    assert local_state(root) is StageState.DONE
    shutil.rmtree(root / "stages")
    local = current_plan(JOB, Volume(root))[0].stage(StageName.FETCH)
    assert run(StageConfig(StageName.FETCH, "support-bot", str(root), "2", local.missing), fetch) is ExitCode.OK
    again = carry_out(resolving(root, "3"), fetch, resolve=resolved)
    assert [unit.cached for unit in again.units] == [True] * 3
    assert [dataclasses.replace(unit, cached=False) for unit in again.units] == list(first.units)


def test_resolved_sources_are_reported_as_they_were_asked_for(root: Path) -> None:
    """The report names the keys of stage.json, with the version that was found; what is built in has none."""
    config = resolving(root)
    report = carry_out(config, fetch, resolve=resolved)
    volume = Volume(root)
    assert [unit.key for unit in report.units] == [unit.key[:16] for unit in config.units]
    assert [unit.version for unit in report.units] == [volume.version("base"), volume.version("data/faq.json"), ""]
    assert volume.result(StageName.FETCH, config.units[0].key) is None
    actual = resolved(volume, config.units[0], {})
    assert actual.params["refresh"] == report.units[0].version
    assert (
        StageConfig.from_json((volume.unit(StageName.FETCH, actual.key) / "stage.json").read_text()).units[0] == actual
    )


def test_touched_source_is_resolved_anew(root: Path) -> None:
    """A source that somebody changed has another version, and is fetched again."""
    first = carry_out(resolving(root), fetch, resolve=resolved)
    (root / "data" / "faq.json").write_text("[]")
    second = carry_out(resolving(root, "2"), fetch, resolve=resolved)
    assert [unit.cached for unit in second.units] == [True, False, True]
    assert first.units[1].version != second.units[1].version
    assert first.units[1].digest != second.units[1].digest


def test_unresolved_sources_keep_their_key(root: Path) -> None:
    """Without `runtime.resolve` the versions in stage.json are taken as they are."""
    config = dataclasses.replace(resolving(root), runtime={})
    report = carry_out(config, fetch, resolve=resolved)
    assert [unit.version for unit in report.units] == ["", "", ""]
    assert all(Volume(root).result(StageName.FETCH, unit.key) for unit in config.units)


MISSING = {
    "not there": ("no/such", ExitCode.MISSING_INPUT, "SourceNotFound"),
    "out of the volume": ("../outside.json", ExitCode.BAD_CONFIG, "UnsafePath"),
}


@pytest.mark.parametrize("name", MISSING)
def test_source_that_cannot_be_resolved(root: Path, name: str) -> None:
    """A source that is not there, or may not be looked at, ends as it does without resolving."""
    path, code, reason = MISSING[name]
    config = stage_config(
        root, StageName.FETCH, params=params(path, "datasets"), unit="dataset:x", runtime={"resolve": True}
    )
    failure = carry_out(config, fetch, resolve=resolved).failure
    assert failure is not None
    assert (failure.code, failure.reason) == (code, reason)
    folder = Volume(root).attempt(StageName.FETCH, config.units[0].key, "1")
    assert Failure.from_json((folder / "failure.json").read_text()) == failure


def test_program_resolves(root: Path, tmp_path: Path) -> None:
    """The program itself resolves if it is told to, and says so in its report."""
    (tmp_path / "stage.json").write_text(resolving(root).to_json())
    argv = [sys.executable, "-m", "tunesmith_stages.fetch", "--config", str(tmp_path / "stage.json")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*argv, "--report", str(tmp_path / "report")], check=True, env=environ, capture_output=True)
    assert Report.from_json((tmp_path / "report").read_text()).units[0].version == Volume(root).version("base")
    assert local_state(root) is StageState.DONE


# --- what is refused -------------------------------------------------------------------------------------------------


def _shard(base: Path) -> Path:
    weights = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    (base / "model.safetensors").unlink()
    write_safetensors(base / "model-1.safetensors", {"a": b"1234", "b": b"5678"})
    write_safetensors(base / "model-2.safetensors", {"c": b"1234"})
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    return base


def _index(base: Path, **weights: Any) -> None:
    _shard(base)
    index = base / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "weight_map": {**content["weight_map"], **weights}}))


def _index_of_pickles(base: Path) -> None:
    _index(base, d="x.bin")
    (base / "x.bin").write_bytes(b"\x80\x02}q\x00.")


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _header(path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)


def _places(base: Path, *offsets: list[float]) -> None:
    """Write weights of 8 bytes, with a header that tells these places of its tensors."""
    entries = {
        str(number): {"dtype": "U8", "shape": [8], "data_offsets": place} for number, place in enumerate(offsets)
    }
    _header(base / "model.safetensors", entries)


BAD_MODELS: dict[str, tuple[Callable[[Path], object], ExitCode, str, str]] = {
    "no config.json": (
        lambda base: (base / "config.json").unlink(),
        ExitCode.MISSING_INPUT,
        "NotAModel",
        "'base' has no config.json",
    ),
    "config.json is not JSON": (
        lambda base: (base / "config.json").write_text("{"),
        ExitCode.BAD_DATA,
        "NotAModel",
        "config.json",
    ),
    "config.json is a list": (
        lambda base: (base / "config.json").write_text("[]"),
        ExitCode.BAD_DATA,
        "NotAModel",
        "config.json",
    ),
    "config.json names no architecture": (
        lambda base: (base / "config.json").write_text("{}"),
        ExitCode.BAD_DATA,
        "NotAModel",
        "names no architecture",
    ),
    "no tokenizer": (
        lambda base: (base / "tokenizer.json").unlink(),
        ExitCode.MISSING_INPUT,
        "TokenizerMissing",
        "'base' has no tokenizer.json",
    ),
    "pickled weights only": (
        lambda base: (base / "model.safetensors").rename(base / "pytorch_model.bin"),
        ExitCode.BAD_DATA,
        "UnsafeWeights",
        "no safetensors weights, only pytorch_model.bin",
    ),
    "no weights": (
        lambda base: (base / "model.safetensors").unlink(),
        ExitCode.MISSING_INPUT,
        "WeightsMissing",
        "no safetensors weights",
    ),
    "parts without an index": (
        lambda base: (_shard(base) / "model.safetensors.index.json").unlink(),
        ExitCode.MISSING_INPUT,
        "WeightsMissing",
        "2 weight files but no model.safetensors.index.json",
    ),
    "a part is missing": (
        lambda base: (_shard(base) / "model-2.safetensors").unlink(),
        ExitCode.MISSING_INPUT,
        "MissingShard",
        "lacks 1 of 2 weight files: model-2.safetensors",
    ),
    "weights cut short": (
        lambda base: _cut(base / "model.safetensors", -10),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "model.safetensors is",
    ),
    "weights cut in the header": (
        lambda base: _cut(base / "model.safetensors", 20),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "model.safetensors is not a safetensors file",
    ),
    "weights of no bytes": (
        lambda base: _cut(base / "model.safetensors", 0),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "model.safetensors is not a safetensors file",
    ),
    "weights that Git LFS left out": (
        lambda base: (base / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "model.safetensors is not a safetensors file",
    ),
    "weights with something at their end": (
        lambda base: (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes() + b"x"),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "its header asks for",
    ),
    "a header that is a list": (
        lambda base: _header(base / "model.safetensors", []),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "is not a safetensors file",
    ),
    "a header without places": (
        lambda base: _header(base / "model.safetensors", {"a": {"dtype": "F32"}}),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "is not a safetensors file",
    ),
    "a header with places that are texts": (
        lambda base: _header(base / "model.safetensors", {"a": {"data_offsets": ["x", "y"]}}),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "is not a safetensors file",
    ),
    "a header longer than any memory": (
        lambda base: (base / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}"),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "a header of 4611686018427387904 bytes",
    ),
    "a header longer than the file": (
        lambda base: (base / "model.safetensors").write_bytes(struct.pack("<Q", 99_000_000) + b"{}" * 9),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "is not a safetensors file",
    ),
    "a header that is a nesting bomb": (
        lambda base: (base / "model.safetensors").write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "is not a safetensors file",
    ),
    "tensors on the same bytes": (
        lambda base: _places(base, [0, 8], [0, 8]),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "the tensor '1' would lie from 0 to 8, and not from 8 on",
    ),
    "tensors that overlap": (lambda base: _places(base, [0, 6], [4, 8]), ExitCode.BAD_DATA, "DamagedWeights", "6 on"),
    "a gap between tensors": (lambda base: _places(base, [0, 2], [4, 8]), ExitCode.BAD_DATA, "DamagedWeights", "2 on"),
    "a tensor in the header": (lambda base: _places(base, [-8, 8]), ExitCode.BAD_DATA, "DamagedWeights", "0 on"),
    "a tensor that ends before it begins": (
        lambda base: _places(base, [0, 8], [8, 4]),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "from 8 to 4",
    ),
    "a tensor beyond the file": (
        lambda base: _places(base, [0, 1 << 62]),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "its header asks for 4,611,686,018,",
    ),
    "a tensor without end": (
        lambda base: _places(base, [0, float("inf")]),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "is not a safetensors file",
    ),
    "an index that is not JSON": (
        lambda base: (_shard(base) / "model.safetensors.index.json").write_text("{"),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "is no index of weights",
    ),
    "an index of numbers": (
        lambda base: _index(base, a=1, b=2, c=3),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "is no index of weights",
    ),
    "an index that leads to pickles": (
        _index_of_pickles,
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "x.bin is not a safetensors file",
    ),
    "an index that leads to the folder above": (
        lambda base: _index(base, d=".."),
        ExitCode.MISSING_INPUT,
        "MissingShard",
        "lacks 1 of 3 weight files: ..",
    ),
    "an index that leads elsewhere": (
        lambda base: _index(base, d="../other/model.safetensors"),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "names files in other folders, such as '../other/model.safetensors'",
    ),
    "a tensor that its part does not hold": (
        lambda base: _index(base, d="model-1.safetensors", e="model-1.safetensors"),
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "model-1.safetensors of 'base' lacks the tensor d (2 in all)",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(root: Path, name: str) -> None:
    """A base model that lacks something or is damaged is refused before it is copied, and the file is named."""
    spoil, code, reason, words = BAD_MODELS[name]
    spoil(root / "base")
    with pytest.raises(StageError) as caught:
        fetched(root, "base")
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert words in caught.value.message
    assert caught.value.hint.endswith((".", ")"))
    assert not (root / "store").exists()


BAD_SOURCES: dict[str, tuple[str, str, ExitCode, str, str]] = {
    "not there": ("data/none.json", "datasets", ExitCode.MISSING_INPUT, "SourceNotFound", "'data/none.json'"),
    "below a file": ("data/faq.json/x", "datasets", ExitCode.MISSING_INPUT, "SourceNotFound", "faq.json/x"),
    "a name too long": ("x" * 300, "datasets", ExitCode.MISSING_INPUT, "SourceNotFound", "xxx"),
    "a sheet": ("data.xlsx", "datasets", ExitCode.BAD_DATA, "UnknownFileType", "'data.xlsx' is no .json, .jsonl, .csv"),
    "compressed lines": ("data.jsonl.gz", "datasets", ExitCode.BAD_DATA, "UnknownFileType", "'data.jsonl.gz' is no .j"),
    "an archive": (
        "data.tar",
        "datasets",
        ExitCode.BAD_DATA,
        "UnknownFileType",
        "'data.tar' is no .json, .jsonl",
    ),
    "an ending alone": ("data/.jsonl", "datasets", ExitCode.BAD_DATA, "UnknownFileType", "'data/.jsonl' is no .json"),
    "a list of datasets": (
        "data/dataset_info.json",
        "datasets",
        ExitCode.BAD_DATA,
        "UnknownFileType",
        "'data/dataset_info.json' describes datasets",
    ),
    "an empty folder": ("empty", "datasets", ExitCode.BAD_DATA, "UnknownFileType", "'empty' holds no .json, .jsonl"),
    "a file for a model": ("data/faq.json", "models", ExitCode.BAD_DATA, "NotAModel", "must be a folder"),
    "up and out": ("../outside.json", "datasets", ExitCode.BAD_CONFIG, "UnsafePath", "'..'"),
    "absolute": ("/etc/passwd", "datasets", ExitCode.BAD_CONFIG, "UnsafePath", "relative"),
    "a link out": ("link.json", "datasets", ExitCode.BAD_CONFIG, "UnsafePath", "leads out of the volume"),
    "a folder with a link out": ("linked", "datasets", ExitCode.BAD_CONFIG, "UnsafePath", "leads out of the volume"),
    "a link up and out": ("up.json", "datasets", ExitCode.BAD_CONFIG, "UnsafePath", "leads out of the volume"),
    "a link to a file of the system": ("system.txt", "datasets", ExitCode.BAD_CONFIG, "UnsafePath", "to /etc/passwd"),
    "a link round in a circle": ("round.json", "datasets", ExitCode.BAD_CONFIG, "UnsafePath", "leads back to itself"),
    "a folder with a circle": ("rounds", "datasets", ExitCode.BAD_CONFIG, "UnsafePath", "leads back to itself"),
    "a pipe": ("pipe.json", "datasets", ExitCode.BAD_DATA, "UnknownFileType", "'pipe.json' is neither a file nor"),
    "a socket": ("socket.json", "datasets", ExitCode.BAD_DATA, "UnknownFileType", "'socket.json' is neither a file"),
    "a folder of pipes": ("pipes", "datasets", ExitCode.BAD_DATA, "UnknownFileType", "'pipes' holds no .json, .jsonl"),
    "a model of pipes": ("pipes", "models", ExitCode.MISSING_INPUT, "NotAModel", "'pipes' has no config.json"),
    "a model with a link out": ("bad-base", "models", ExitCode.BAD_CONFIG, "UnsafePath", "leads out of the volume"),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_bad_source(root: Path, name: str) -> None:
    """A source that is not there, is of another kind or leads out of the volume ends the stage with nothing copied."""
    outside = root.parent / "outside.json"
    for file in ("data.xlsx", "data.jsonl.gz", "data.tar"):
        (root / file).write_text("a,b\n")
    for folder in ("empty", "linked", "bad-base", "rounds", "pipes"):
        (root / folder).mkdir()
    for file in (".jsonl", "dataset_info.json"):
        (root / "data" / file).write_text("{}")
    (root / "link.json").symlink_to(outside)
    (root / "up.json").symlink_to("../outside.json")
    (root / "system.txt").symlink_to("/etc/passwd")
    (root / "round.json").symlink_to("round.json")
    (root / "rounds" / "a.json").symlink_to("b.json")
    (root / "rounds" / "b.json").symlink_to("a.json")
    for pipe in ("pipe.json", "pipes/faq.json", "pipes/config.json", "pipes/model.safetensors"):
        os.mkfifo(root / pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket.json"))
    (root / "linked" / "faq.json").symlink_to(outside)
    (root / "bad-base" / "config.json").symlink_to(outside)
    path, kind, code, reason, words = BAD_SOURCES[name]
    config = stage_config(root, StageName.FETCH, params=params(path, kind), unit="dataset:faq")
    assert run(config, fetch) is code
    attempt = Volume(root).attempt(StageName.FETCH, config.units[0].key, "1")
    failure = Failure.from_json((attempt / "failure.json").read_text())
    assert failure.reason == reason
    assert words in failure.message
    assert "secret" not in failure.message
    assert not (root / "store").exists()
    assert not (attempt / "incoming").exists()


@pytest.mark.parametrize("name", ["a pipe", "a socket", "a link out"])
def test_put_in_the_place_of_a_file(root: Path, tmp_path: Path, name: str) -> None:
    """What somebody puts in a file's place after it was looked at is neither waited for nor read."""
    place = root / "data" / "faq.json"
    place.unlink()
    if name == "a pipe":
        os.mkfifo(place)
    elif name == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(place))
    else:
        place.symlink_to(tmp_path / "outside.json")
    work = work_of(stage_config(root, StageName.FETCH, params=params("data", "datasets"), unit="dataset:faq"))
    with pytest.raises(UnsafePathError, match="out of the volume" if name == "a link out" else "a pipe, a socket or"):
        store_copies(work, {"faq.json": place}, {})
    assert not (root / "store").exists()


GBK = b"\xca\xfd\xbe\xdd"  # a name that was given under Windows in China, unpacked on Linux


def gbk_named(folder: Path, suffix: str) -> Path:
    path = folder / os.fsdecode(GBK + suffix.encode())
    path.write_text("[]")
    return path


@pytest.mark.parametrize("path", ["data", "data/faq.json", "base"])
def test_name_that_is_not_utf8_beside_the_source(root: Path, path: str) -> None:
    """A file that is not taken may have any name; that it is there or changes is seen in the version of its folder."""
    folder = root / path if (root / path).is_dir() else (root / path).parent
    kind = "models" if path == "base" else "datasets"
    before = Volume(root).version(path)
    beside = gbk_named(folder, ".md")
    config = stage_config(root, StageName.FETCH, params=params(path, kind), runtime={"resolve": True})
    assert carry_out(config, fetch, resolve=resolved).failure is None
    assert (Volume(root).version(path) != before) is (root / path).is_dir()
    version = Volume(root).version(path)
    beside.write_text("other")
    assert (Volume(root).version(path) != version) is (root / path).is_dir()


TAKEN = {"of a dataset": ("data", ".json"), "of a model": ("base", ".txt"), "with weights": ("shards", ".safetensors")}


@pytest.mark.parametrize("name", TAKEN)
def test_name_that_is_not_utf8(root: Path, name: str) -> None:
    """A file that would be taken, with a name that no result could list, is refused with a way out."""
    path, suffix = TAKEN[name]
    (root / "shards").mkdir()
    for file in ("config.json", "tokenizer.json"):
        shutil.copy(root / "base" / file, root / "shards")
    gbk_named(root / path, suffix)
    kind = "datasets" if path == "data" else "models"
    config = stage_config(root, StageName.FETCH, params=params(path, kind), runtime={"resolve": True})
    failure = carry_out(config, fetch, resolve=resolved).failure
    assert failure is not None
    assert (failure.code, failure.reason) == (ExitCode.BAD_DATA, "FileNameNotUtf8")
    assert f"of {path!r}" in failure.message
    assert rf"\udcca\udcfd\udcbe\udcdd{suffix}" in failure.message
    assert "Rename" in failure.hint
    (folder,) = (root / "stages" / "fetch").iterdir()
    assert Failure.from_json((folder / "failure.json").read_text()) == failure


def test_pickled_weights_with_a_name_that_is_not_utf8(root: Path) -> None:
    """Even the name of a file that is refused for another reason can be told."""
    (root / "base" / "model.safetensors").unlink()
    gbk_named(root / "base", ".bin")
    config = stage_config(root, StageName.FETCH, params=params("base", "models"))
    failure = carry_out(config, fetch).failure
    assert failure is not None
    assert failure.reason == "UnsafeWeights"
    assert r"only \udcca\udcfd\udcbe\udcdd.bin" in failure.message


def test_source_too_large_for_the_disk(root: Path) -> None:
    """A source that cannot fit is refused before the first byte is written; the sizes are named."""
    size = shutil.disk_usage(root).total + 1
    with (root / "data" / "huge.json").open("wb") as file:
        file.truncate(size)  # a sparse file: it takes no room
    with pytest.raises(StageError) as caught:
        fetched(root, "data/huge.json", "datasets")
    assert caught.value.code is ExitCode.NO_SPACE
    assert f"{size:,} bytes" in caught.value.message


def test_header_is_returned(tmp_path: Path) -> None:
    """A whole file's tensors are told by name, without its metadata."""
    _header(tmp_path / "x", {"__metadata__": {"format": "pt"}, "a": {"data_offsets": [0, 8]}})
    assert check_safetensors(tmp_path / "x") == {"a": {"data_offsets": [0, 8]}}
