"""Choosing an Ollama, and making a tool once and whole (``hack/toolchain``)."""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))  # scripts, not a package that is installed

import making
import ollama

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("0.34.1", (0, 34, 1)), ("v0.40.2-rc1", (0, 40, 2)), ("0.4.10", (0, 4, 10)), ("", ()), ("main", ())],
)
def test_numbers_of(version: str, numbers: tuple[int, ...]) -> None:
    """Versions are compared by their numbers; what has none is older than everything."""
    assert ollama.numbers_of(version) == numbers


@pytest.mark.parametrize("version", ollama.pinned_versions())
def test_pins_hold_their_version(version: str) -> None:
    """The folder's name, go.mod and go.sum agree, and every hash that the build needs is there."""
    module = (ollama.PINS / version / "go.mod").read_text()
    hashes = (ollama.PINS / version / "go.sum").read_text()
    assert f"github.com/ollama/ollama v{version} " in module
    assert f"github.com/ollama/ollama v{version} h1:" in hashes


@pytest.fixture
def answering() -> Iterator[str]:
    """Yield the address of a server that says that it is Ollama 0.12.3."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"version": "0.12.3"} if self.path == "/api/version" else []).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def program(folder: Path, told: str) -> str:
    """Write a program `ollama` that tells a version, and return a PATH with it."""
    folder.mkdir()
    (folder / "ollama").write_text(f'#!/bin/sh\n[ "$OLLAMA_HOST" = 127.0.0.1:1 ] && echo "{told}"\n')
    (folder / "ollama").chmod(0o755)
    return str(folder)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the newest pinned Ollama count as built, and return its program."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = ollama.pinned(ollama.pinned_versions()[0]).path
    path.parents[1].mkdir(parents=True)
    (path.parents[1] / "VERSION").touch()
    return path


def test_server_that_answers_goes_first(answering: str, tmp_path: Path) -> None:
    """A server at OLLAMA_HOST is used, whatever its version and whatever is on PATH; the stages judge its version."""
    environ = {"OLLAMA_HOST": answering, "PATH": program(tmp_path / "bin", "Warning: client version is 0.40.2")}
    assert ollama.which(environ) == ollama.Running(f"http://{answering}", "0.12.3")


@pytest.mark.parametrize("told", ["ollama version is 0.34.1", "Warning: client version is 0.40.2"])
def test_program_on_path_goes_second(tmp_path: Path, capsys: pytest.CaptureFixture[str], told: str) -> None:
    """Without an answer at OLLAMA_HOST the program on PATH is used if it is new enough, and the silence is told."""
    environ = {"OLLAMA_HOST": "127.0.0.1:9", "PATH": program(tmp_path / "bin", told)}
    found = ollama.which(environ)
    assert found == ollama.Program(tmp_path / "bin" / "ollama", told.rsplit(maxsplit=1)[-1])
    assert "no Ollama answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize("told", ["ollama version is 0.33.0", "Warning: client version is 0.0.0", "broken"])
def test_pinned_one_goes_last(tmp_path: Path, built: Path, capsys: pytest.CaptureFixture[str], told: str) -> None:
    """A program that is too old, or tells no version, is passed over, with a word, for the newest pinned one."""
    environ = {"PATH": program(tmp_path / "bin", told)}
    assert ollama.which(environ) == ollama.Program(built, ollama.pinned_versions()[0])
    assert f"{tmp_path / 'bin' / 'ollama'} is " in capsys.readouterr().err


def test_without_go_the_ways_out_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be built, the error names each way to get an Ollama."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageError, match="no `go` on PATH") as caught:
        ollama.ensure("0.34.4")
    assert all(word in caught.value.hint for word in ("Install Ollama", "OLLAMA_HOST", "install Go"))


def test_version_that_is_not_pinned() -> None:
    """A version without a pin is refused with those that have one."""
    with pytest.raises(StageError, match=r"0\.1\.0 is not pinned; it must be one of: .*0\.34\.4"):
        ollama.ensure("0.1.0")


# --- made once, and whole --------------------------------------------------------------------------------------------


def make(_work: Path, prefix: Path, _log: Path) -> None:
    (prefix / "tool").write_text("whole")


def fail(_work: Path, prefix: Path, _log: Path) -> None:
    (prefix / "tool").write_text("half")
    raise StageError(ExitCode.INTERNAL, "it broke")


def test_failed_make_leaves_nothing_but_its_log(tmp_path: Path) -> None:
    """A failed build is never taken for a whole one, tells where its log is, and the next one starts clean."""
    folder = tmp_path / "tool-1"
    with pytest.raises(StageError, match="it broke") as caught:
        making.make_once(folder, "1", "no time", fail)
    assert str(tmp_path / "tool-1.log") in caught.value.hint
    assert not folder.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"tool-1.log", ".tool-1.lock"}
    making.make_once(folder, "1", "no time", make)
    assert making.is_whole(folder)
    assert (folder / "tool").read_text() == "whole"


def test_half_a_folder_is_made_again(tmp_path: Path) -> None:
    """A folder without VERSION, whoever left it, is replaced."""
    folder = tmp_path / "tool-1"
    folder.mkdir()
    (folder / "stray").touch()
    making.make_once(folder, "1", "no time", make)
    assert {path.name for path in folder.iterdir()} == {"tool", "VERSION"}


def test_many_at_once_make_it_once(tmp_path: Path) -> None:
    """Of several who want the same tool at once one makes it, the others wait for it."""
    folder, calls = tmp_path / "tool-1", []

    def make_slowly(work: Path, prefix: Path, log: Path) -> None:
        calls.append(prefix)
        time.sleep(0.2)
        make(work, prefix, log)

    def want(_number: int) -> bool:
        making.make_once(folder, "1", "no time", make_slowly)
        return making.is_whole(folder)

    # The lock is taken by each opening of its file, so threads stand against each other as processes do.
    with ThreadPoolExecutor(4) as several:
        assert list(several.map(want, range(4))) == [True] * 4
    assert len(calls) == 1
