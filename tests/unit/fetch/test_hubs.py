from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from support.builders import write_base, write_safetensors
from support.file_server import FileServer, Reply, Repository, Request
from support.hub_server import HubServer
from support.model_scope_server import ModelScopeServer
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.fetch.hub import pinned, version_of
from tunesmith_stages.fetch.stage import resolved
from tunesmith_stages.lookup import look_up
from tunesmith_stages.volume import Volume, sha256_of
from unit.fetch.hubs import (
    ENDPOINTS,
    SERVERS,
    TOKENS,
    asking,
    failure,
    play,
    repositories,
    result,
    run,
    storage,
    stored,
)

TOKEN = "hub_abcdefghijklmnop"  # noqa: S105 - of a hub that is played
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return a model's files, by name."""
    folder = write_base(tmp_path_factory.mktemp("base") / "base")
    write_safetensors(folder / WEIGHTS, {"weight": os.urandom(300_000)})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(
    form: str, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[HubServer | ModelScopeServer]:
    """Return a hub with the model."""
    server = SERVERS[form](repositories(model))
    play(monkeypatch, form, server, tmp_path)
    with server.running():
        yield server


def bytes_sent(server: FileServer, path: str, size: int) -> list[int]:
    """Return how many bytes of a file each request asked for."""
    return [size - request.first_byte for request in server.asked_for(path)]


# --- what comes ------------------------------------------------------------------------------------------------------


def test_model_comes_whole_and_without_what_is_not_needed(
    root: Path, hub: FileServer, form: str, model: dict[str, bytes]
) -> None:
    """Configuration, tokenizer, licence and weights are stored; code, pickles and what else there is never come."""
    needed = {
        "LICENSE": b"do",
        "generation_config.json": b"{}",
        "chat_template.jinja": b"{{ x }}",
        "merges.txt": b"a b",
    }
    others = (
        "modeling_x.py",
        "pytorch_model.bin",
        "README.md",
        "onnx/model.onnx",
        "training_args.json",
        "x/config.json",
    )
    repository = Repository.of({**model, **needed, **dict.fromkeys(others, b"not needed")})
    hub.repositories["models/o/n"] = repository  # type: ignore[attr-defined]
    made = result(asking(root, form))
    assert stored(asking(root, form)) == {**model, **needed}
    assert {entry.path: entry.sha256 for entry in made.files} == {
        name: sha256_of(root / made.path / name) for name in {**model, **needed}
    }
    assert made.outputs["commit"] == repository.commit
    assert made.outputs["architecture"] == "LlamaForCausalLM"
    assert not [request for name in others if name != "README.md" for request in hub.asked_for(name)]


def test_model_in_parts(root: Path, hub: FileServer, form: str, model: dict[str, bytes], tmp_path: Path) -> None:
    """The index tells which parts are fetched; other weight files beside them are not."""
    files = {name: data for name, data in model.items() if name != WEIGHTS}
    for name, tensors in (
        ("model-1.safetensors", {"a": b"1"}),
        ("model-2.safetensors", {"b": b"2"}),
        ("x.safetensors", {}),
    ):
        write_safetensors(tmp_path / name, tensors or None)
        files[name] = (tmp_path / name).read_bytes()
    weights = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weights}).encode()
    hub.repositories["models/o/n"] = Repository.of(files)  # type: ignore[attr-defined]
    assert stored(asking(root, form)).keys() == files.keys() - {"x.safetensors"}


def test_commit_is_the_version(root: Path, hub: Any, form: str) -> None:
    """A branch is looked up once: its commit is the version, under which a second job finds it without a download."""
    report = run(asking(root, form))
    (unit,) = report.units
    assert pinned(unit.version) == hub.repositories["models/o/n"].commit
    asked = len(hub.asked_for(WEIGHTS))
    again = run(dataclasses.replace(asking(root, form, attempt="2"), job="another"))
    assert [(item.key, item.version, item.cached) for item in again.units] == [(unit.key, unit.version, True)]
    assert len(hub.asked_for(WEIGHTS)) == asked == 1


def test_version_that_is_known_is_not_looked_up(root: Path, hub: Any, form: str, model: dict[str, bytes]) -> None:
    """A source that has its version comes from that commit, though its branch has moved on."""
    config = asking(root, form)
    repository = hub.repositories["models/o/n"]
    version = version_of(repository.commit)
    repository.commits["f" * 40] = {**model, "config.json": b"{}"}
    repository.refs = {"main": "f" * 40}
    unit = dataclasses.replace(config.units[0], params={**config.units[0].params, "refresh": version})
    assert stored(dataclasses.replace(config, units=(unit,))) == model


def test_full_commit_needs_no_look_up(root: Path, hub: Any, form: str, model: dict[str, bytes]) -> None:
    """A revision that is a commit's full hash is taken as it is."""
    commit = hub.repositories["models/o/n"].commit
    hub.repositories["models/o/n"].refs = {}
    assert stored(asking(root, form, revision=commit)) == model
    assert not [request for request in hub.requests if "/revision/" in request.path]


def test_look_up_asks_no_hub(root: Path, hub: Any, form: str) -> None:
    """Who only looks what is on the volume asks nobody else; a unit with its version is found, and reported with it."""
    config = asking(root, form)
    (unit,) = config.units
    known = resolved(Volume(root), unit, config.runtime)
    result(config)
    asked = len(hub.requests)
    assert look_up(config).units == ()
    found = look_up(dataclasses.replace(config, units=(known,)))
    assert [(item.key, item.version) for item in found.units] == [(known.key[:16], known.params["refresh"])]
    assert len(hub.requests) == asked


# --- what goes wrong on the way --------------------------------------------------------------------------------------


def test_broken_download_goes_on(root: Path, hub: FileServer, form: str, model: dict[str, bytes]) -> None:
    """A connection that breaks is made anew, and only the rest is asked for."""
    size = len(model[WEIGHTS])
    hub.fails(WEIGHTS, cut_after=100_000)
    assert stored(asking(root, form)) == model
    assert bytes_sent(hub, WEIGHTS, size) == [size, size - 100_000]


def test_broken_download_goes_on_in_the_next_attempt(
    root: Path, hub: FileServer, form: str, model: dict[str, bytes]
) -> None:
    """What came stays on the volume when an attempt fails; the next one asks for the rest alone, of no other file."""
    size = len(model[WEIGHTS])
    hub.fails(WEIGHTS, cut_after=100_000)
    hub.fails(WEIGHTS, times=20, status=503)
    first = failure(asking(root, form))
    assert (first.code, first.reason) == (ExitCode.UNAVAILABLE, "HubUnavailable")
    hub.faults.clear()
    hub.requests.clear()
    assert stored(asking(root, form, attempt="2")) == model
    assert bytes_sent(hub, WEIGHTS, size) == [size - 100_000]
    assert not hub.asked_for("tokenizer.json")
    assert not list((root / "store" / "downloads").iterdir())


def test_download_of_a_killed_attempt_is_taken_over(
    root: Path, hub: FileServer, form: str, model: dict[str, bytes]
) -> None:
    """What an attempt left whose process is gone is used; what another process works at is left alone."""
    hub.fails(WEIGHTS, cut_after=100_000)
    hub.fails(WEIGHTS, times=20, status=503)
    config = asking(root, form)
    failure(config)
    downloads = root / "store" / "downloads"
    (left,) = downloads.iterdir()
    owner = json.loads((left / "owner.json").read_text())
    (left / "owner.json").write_text(json.dumps({**owner, "pid": 2**22 + 1}))
    left.rename(downloads / f"{left.name}.killed")
    alive = shutil.copytree(downloads / f"{left.name}.killed", downloads / f"{left.name}.alive")
    (alive / "owner.json").write_text(json.dumps(owner))
    hub.faults.clear()
    hub.requests.clear()
    assert stored(asking(root, form, attempt="2")) == model
    assert bytes_sent(hub, WEIGHTS, len(model[WEIGHTS])) == [len(model[WEIGHTS]) - 100_000]
    assert [path.name for path in downloads.iterdir()] == [alive.name]


def test_program_that_is_stopped(root: Path, hub: FileServer, form: str, model: dict[str, bytes]) -> None:
    """A program that is asked to end in the middle of a download keeps what came, for the next one to go on from."""
    hub.fails(WEIGHTS, cut_after=100_000, stall=20.0)
    stage_json = root.parent / "stage.json"
    stage_json.write_text(asking(root, form).to_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith_stages.fetch", "--config", str(stage_json)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while not any(path.stat().st_size == 100_000 for path in root.glob("store/downloads/*/parts/*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert b"Interrupted: stopped by SIGTERM" in process.communicate(timeout=20)[1]
    assert process.returncode == ExitCode.INTERRUPTED
    hub.requests.clear()
    assert stored(asking(root, form, attempt="2")) == model
    assert bytes_sent(hub, WEIGHTS, len(model[WEIGHTS])) == [len(model[WEIGHTS]) - 100_000]


def test_stalled_connection(
    root: Path, hub: FileServer, form: str, model: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """A connection on which nothing comes is given up after a while, said so, and made anew from where it was."""
    hub.fails(WEIGHTS, cut_after=50_000, stall=1.0)
    assert stored(asking(root, form)) == model
    assert bytes_sent(hub, WEIGHTS, len(model[WEIGHTS]))[1:] == [len(model[WEIGHTS]) - 50_000]
    assert f"{WEIGHTS} broke off at 50,000 of" in capsys.readouterr().out


def test_hub_that_is_down_for_a_while(root: Path, hub: FileServer, form: str, model: dict[str, bytes]) -> None:
    """A hub that does not answer for a moment, before or in the middle of everything, is asked again."""
    hub.fails("*", cut_after=0)
    hub.fails("tokenizer.json", times=2, status=503)
    hub.fails(WEIGHTS, status=429)
    assert stored(asking(root, form)) == model


def test_hub_that_is_down(root: Path, form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that never answers is no fault of the job: it may be tried again."""
    server = SERVERS[form]({})
    play(monkeypatch, form, server, tmp_path)
    with server.running():
        pass
    found = failure(asking(root, form))
    assert (found.code, found.reason) == (ExitCode.UNAVAILABLE, "HubUnavailable")
    assert "the model 'o/n' of" in found.message


def test_offline(root: Path, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who forbids to ask the hub is told that, and nobody is asked."""
    server = HubServer(repositories(model))
    play(monkeypatch, "huggingFace", server, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with server.running():
        assert "HF_HUB_OFFLINE" in failure(asking(root, "huggingFace")).message
    assert not server.requests


def test_server_without_parts(root: Path, hub: FileServer, form: str, model: dict[str, bytes]) -> None:
    """From a server that cannot begin in the middle, the file comes again from its beginning."""
    hub.fails(WEIGHTS, cut_after=100_000)
    hub.fails(WEIGHTS, no_ranges=True)
    assert stored(asking(root, form)) == model


def test_wrong_content_that_passes(root: Path, hub: FileServer, form: str, model: dict[str, bytes]) -> None:
    """Content with another hash is thrown away and fetched once more, of files with and without Git LFS."""
    for name in (WEIGHTS, "tokenizer.json"):
        hub.fails(name, content=bytes(len(model[name])))
    assert stored(asking(root, form)) == model


def test_damaged_part_on_the_volume(root: Path, hub: FileServer, form: str, model: dict[str, bytes]) -> None:
    """What was kept and is damaged does not stay for ever: the file is fetched anew."""
    hub.fails(WEIGHTS, cut_after=100_000)
    hub.fails(WEIGHTS, times=20, status=503)
    failure(asking(root, form))
    hub.faults.clear()
    (part,) = (root / "store" / "downloads").glob("*/parts/*")
    part.write_bytes(bytes(100_000))
    whole = next((root / "store" / "downloads").glob("*/files/tokenizer.json"))
    whole.write_bytes(bytes(whole.stat().st_size))
    assert stored(asking(root, form, attempt="2")) == model


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "another hash": (WEIGHTS, {"content": b"\0" * 300_000}, ""),
    "another hash of a small file": ("config.json", {"content": b"{}"}, ""),
    "a pointer of Git LFS": (WEIGHTS, {"content": b"version https://git-lfs.github.com/spec/v1\noid x\n"}, "Git LFS"),
    "too long": (WEIGHTS, {"content": b"\0" * 400_000}, "400,000 bytes come instead of"),
    "not handed out": (WEIGHTS, {"status": 404}, "HTTP 404"),
}


@pytest.mark.parametrize("name", WRONG)
def test_file_that_is_not_what_the_hub_lists(
    root: Path, hub: FileServer, form: str, model: dict[str, bytes], name: str
) -> None:
    """A file that stays wrong ends the stage with its name, and nothing of it is kept."""
    path, how, words = WRONG[name]
    if name.startswith("another hash"):
        how, words = {"content": bytes(len(model[path]))}, "another hash"
    hub.fails(path, times=20, **how)
    found = failure(asking(root, form))
    assert (found.code, found.reason) == (ExitCode.BAD_DATA, "DownloadWrong")
    assert f"no usable {path}" in found.message
    assert words in found.message
    assert not list((root / "store").glob("models/*/*"))


def test_source_too_large_for_the_disk(
    root: Path, hub: FileServer, form: str, monkeypatch: pytest.MonkeyPatch, model: dict[str, bytes]
) -> None:
    """Weights that cannot fit are refused before the first byte of them comes."""
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(model[WEIGHTS]) - 1))
    found = failure(asking(root, form))
    assert found.code is ExitCode.NO_SPACE
    assert f"{len(model[WEIGHTS]):,} bytes" in found.message
    assert not hub.asked_for(WEIGHTS)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hub")
def test_repository_that_is_not_there(root: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that the hub knows nothing of, or does not show to this account, is named with both ways out."""
    monkeypatch.setenv(TOKENS[form], TOKEN)
    found = failure(asking(root, form, repo="o/other"))
    assert (found.code, found.reason) == (ExitCode.MISSING_INPUT, "RepositoryNotFound")
    assert "'o/other'" in found.message
    assert found.message.endswith("is not there, or is private")
    assert "OWNER/NAME" in found.hint
    assert f"{form}.tokenSecretRef" in found.hint


NOT_SHOWN = {"huggingFace": "HubAccessDenied", "modelScope": "RepositoryNotFound"}
"""To who asks without a token Hugging Face does not say whether there is such a repository."""


@pytest.mark.usefixtures("hub")
def test_repository_that_is_not_shown_to_everybody(root: Path, form: str) -> None:
    """Without a token it may not be there, or be private: the reason is the hub's answer, the way out is said."""
    found = failure(asking(root, form, repo="o/other"))
    assert found.reason == NOT_SHOWN[form]
    assert "'o/other'" in found.message
    assert f"{form}.tokenSecretRef" in found.hint


@pytest.mark.parametrize("revision", ["v9", "e" * 40])
@pytest.mark.usefixtures("hub")
def test_revision_that_is_not_there(root: Path, form: str, revision: str) -> None:
    """A branch, tag or commit that is not in the repository is named."""
    found = failure(asking(root, form, revision=revision))
    assert (found.code, found.reason) == (ExitCode.MISSING_INPUT, "RevisionNotFound")
    assert f"{revision!r}" in found.message


@pytest.mark.parametrize(("token", "words"), [("", "without a token"), ("wrong", "with the token that was given")])
def test_gated_repository(
    root: Path, hub: Any, form: str, monkeypatch: pytest.MonkeyPatch, token: str, words: str
) -> None:
    """Who may not read a repository is told of the licence and the token; what was tried is said, not the token."""
    hub.repositories["models/o/n"].token = TOKEN
    monkeypatch.setenv(TOKENS[form], token)
    found = failure(asking(root, form))
    assert (found.code, found.reason) == (ExitCode.NO_PERMISSION, "HubAccessDenied")
    assert words in found.message
    assert "licence" in found.hint
    assert f"{form}.tokenSecretRef" in found.hint


def test_token_of_the_unit(root: Path, hub: Any, form: str, monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    """The token is the one in the variable that the edge names for the unit, without the line's end of a Secret."""
    hub.repositories["models/o/n"].token = TOKEN
    monkeypatch.setenv(TOKENS[form], "not this one")
    monkeypatch.setenv("THE_TOKEN", f"{TOKEN}\n")
    assert stored(asking(root, form, runtime={"tokens": {"base": "THE_TOKEN"}})) == model


@pytest.mark.parametrize("token", ["", "two words", "line\nline", "Schlüssel"])
def test_token_that_is_none(root: Path, hub: Any, form: str, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """A Secret that is empty or holds more than a token is refused before anybody is asked; it is not shown."""
    monkeypatch.setenv("THE_TOKEN", token)
    found = failure(asking(root, form, runtime={"tokens": {"base": "THE_TOKEN"}}))
    assert (found.code, found.reason) == (ExitCode.BAD_CONFIG, "InvalidToken")
    assert not token or token not in found.message
    assert not hub.requests


def test_token_stays_with_the_hub(
    root: Path,
    form: str,
    model: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The host to which the hub redirects is not sent the token, and no log or result holds it."""
    caplog.set_level(logging.DEBUG)
    with storage() as elsewhere:
        server = SERVERS[form](repositories(model, token=TOKEN), elsewhere)
        play(monkeypatch, form, server, tmp_path)
        monkeypatch.setenv(TOKENS[form], TOKEN)
        with server.running():
            assert stored(asking(root, form)) == model
    assert elsewhere.requests
    assert TOKEN in str(server.requests)
    assert TOKEN not in str(elsewhere.requests)
    said = capfd.readouterr()
    written = "".join(path.read_text(errors="replace") for path in root.rglob("*") if path.is_file())
    assert TOKEN not in said.out + said.err + caplog.text + written


def test_list_that_goes_on_elsewhere(
    root: Path, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A list of files whose next page is on another host does not take the token there."""
    with storage() as elsewhere:
        server = HubServer(repositories(model, token=TOKEN))
        play(monkeypatch, "huggingFace", server, tmp_path)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        with server.running():
            monkeypatch.setattr(server, "url", elsewhere.url)  # where its links lead
            elsewhere.fails("*", times=9, status=404)
            failure(asking(root, "huggingFace"))
    assert elsewhere.requests
    assert TOKEN not in str(elsewhere.requests)


def test_list_that_is_redirected(
    root: Path, form: str, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the hub's client asks for itself takes no token along either: not even to another port of the same host."""
    server = SERVERS[form](repositories(model, token=TOKEN))
    play(monkeypatch, form, server, tmp_path)
    monkeypatch.setenv(TOKENS[form], TOKEN)
    other = SERVERS[form](repositories(model))
    monkeypatch.setattr(server, "answer", lambda asked, reply: reply.status(302, Location=f"{other.url}{asked.path}"))
    with server.running(), other.running():
        run(asking(root, form))
    assert TOKEN in str(server.requests)
    assert other.requests
    assert TOKEN not in str(other.requests)


@pytest.mark.parametrize("where", ["the list", "a file"])
def test_redirects_without_end(
    root: Path, form: str, where: str, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A proxy that sends everybody in a circle, to log in, is told as a hub that cannot be reached."""
    server = SERVERS[form](repositories(model))
    play(monkeypatch, form, server, tmp_path)
    answer = server.answer

    def in_a_circle(asked: Request, reply: Reply) -> None:
        if where == "the list" or asked.path.endswith((WEIGHTS, "/repo")) or "/resolve/" in asked.path:
            query = urlencode(asked.query)
            reply.status(302, Location=f"{server.url}{asked.path}?{query}")
        else:
            answer(asked, reply)

    monkeypatch.setattr(server, "answer", in_a_circle)
    with server.running():
        found = failure(asking(root, form))
    assert (found.code, found.reason) == (ExitCode.UNAVAILABLE, "HubUnavailable")
    assert "redirects" in found.message


BAD_MODELS: dict[str, tuple[dict[str, bytes | None], ExitCode, str, str]] = {
    "no configuration": ({"config.json": None}, ExitCode.MISSING_INPUT, "NotAModel", "no config.json"),
    "no tokenizer": ({"tokenizer.json": None}, ExitCode.MISSING_INPUT, "TokenizerMissing", "no tokenizer.json"),
    "pickles only": (
        {WEIGHTS: None, "pytorch_model.bin": b"x"},
        ExitCode.BAD_DATA,
        "UnsafeWeights",
        "only pytorch_model.bin",
    ),
    "no weights": ({WEIGHTS: None}, ExitCode.MISSING_INPUT, "WeightsMissing", "no safetensors weights"),
    "a part is missing": (
        {INDEX: b'{"weight_map": {"weight": "model.safetensors", "b": "model-2.safetensors"}}'},
        ExitCode.MISSING_INPUT,
        "MissingShard",
        "lacks 1 of 2 weight files: model-2.safetensors",
    ),
    "an index that leads elsewhere": (
        {INDEX: b'{"weight_map": {"weight": "../model.safetensors"}}'},
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "names files in other folders",
    ),
    "a pointer in place of the weights": (
        {WEIGHTS: b"version https://git-lfs.github.com/spec/v1\noid sha256:x\nsize 9\n"},
        ExitCode.BAD_DATA,
        "DamagedWeights",
        "model.safetensors is not a safetensors file",
    ),
    "a name that leads up": ({"../evil.json": b"{}"}, ExitCode.BAD_DATA, "UnsafeFileName", "'../evil.json'"),
    "a name in the middle that leads up": (
        {"a/../../evil.json": b"{}"},
        ExitCode.BAD_DATA,
        "UnsafeFileName",
        "'a/../../evil.json'",
    ),
    "a name from the top": ({"/etc/evil.json": b"{}"}, ExitCode.BAD_DATA, "UnsafeFileName", "'/etc/evil.json'"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(root: Path, hub: Any, form: str, model: dict[str, bytes], name: str) -> None:
    """A repository without a whole model is refused with the file's name; what is missing, before the weights come."""
    changes, code, reason, words = BAD_MODELS[name]
    files = {path: data for path, data in {**model, **changes}.items() if data is not None}
    hub.repositories["models/o/n"] = Repository.of(files)
    found = failure(asking(root, form))
    assert (found.code, found.reason) == (code, reason)
    assert words in found.message
    assert "volume" not in found.hint
    assert not list((root / "store").glob("models/*/*"))
    assert name.startswith("a pointer") or not hub.asked_for(WEIGHTS)


def test_server_that_is_no_hub(root: Path, hub: FileServer, form: str) -> None:
    """An address that answers with pages instead of the protocol is told from a hub that is down."""
    hub.fails("*", times=20, content=b"<html>Welcome</html>", status=200)
    found = failure(asking(root, form))
    assert (found.code, found.reason) == (ExitCode.BAD_CONFIG, "HubAnswerUnknown")
    assert ENDPOINTS[form] in found.hint


def test_commit_that_model_scope_does_not_tell(
    root: Path, model: dict[str, bytes], monkeypatch: Any, tmp_path: Path
) -> None:
    """A branch whose newest commit touched no file that is left cannot be pinned; its full hash can be given."""
    server = ModelScopeServer(repositories(model))
    server.touched = dict.fromkeys(model, "a" * 40)
    play(monkeypatch, "modelScope", server, tmp_path)
    with server.running():
        found = failure(asking(root, "modelScope"))
        assert (found.code, found.reason) == (ExitCode.BAD_CONFIG, "RevisionNotPinned")
        commit = server.repositories["models/o/n"].commit
        assert stored(asking(root, "modelScope", revision=commit)) == model


@pytest.mark.usefixtures("hub")
def test_result_is_found_by_its_key(root: Path, form: str) -> None:
    """The result lies under the key that the unit has with its version."""
    config = asking(root, form)
    made = result(config)
    assert Volume(root).result(StageName.FETCH, config.units[0].key) is None
    assert made.path == f"store/models/{made.digest}"
