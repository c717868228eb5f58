"""The Ollama servers that the demo and the tests start: whose they are, and that nothing of them is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bigram_model import ANSWER, CHATML, write_gguf
from support.ollama_server import OllamaServer, ollama_programs, ollama_server
from tunesmith_stages.chat_template import guarded

pytestmark = pytest.mark.e2e

SERVE = Path(__file__).parents[2] / "hack" / "toolchain" / "serve_ollama.py"


@pytest.fixture(params=ollama_programs(), ids=lambda program: program.parents[1].name)
def program(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def load_model(server: OllamaServer, folder: Path) -> None:
    """Give the server a small model and let it answer, so that a llama-server runs."""
    write_gguf(folder / "model.gguf", guarded(CHATML))
    environ = {**os.environ, "OLLAMA_HOST": server.url}
    (folder / "Modelfile").write_text(f"FROM {folder / 'model.gguf'}\n")
    subprocess.run(
        [server.program, "create", "tunny", "-f", folder / "Modelfile"], check=True, capture_output=True, env=environ
    )
    messages = [{"role": "user", "content": "Who are you?"}]
    body = {"model": "tunny", "messages": messages, "stream": False, "options": {"temperature": 0}, "keep_alive": "5m"}
    assert server.ask("/api/chat", body)["message"]["content"] == ANSWER


def group_of(pid: int) -> dict[int, str]:
    """Return the living processes of a process group, by number, with their names."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            before, _, after = stat.read_text().rpartition(")")
            state, _, group = after.split()[:3]
            if int(group) == pid and state != "Z":
                found[int(stat.parent.name)] = before.partition("(")[2]
    return found


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 120
    while group_of(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group_of(pid) == {}


def test_server_is_of_its_version_and_alone(program: Path, tmp_path: Path) -> None:
    """A server is the version asked for, listens on loopback, keeps all it has in its folders, and leaves nothing."""
    with ollama_server(program, tmp_path / "models") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.ask("/api/version") == {"version": program.parents[1].name.removeprefix("ollama-")}
        load_model(server, tmp_path)
        assert set(group_of(server.pid).values()) == {"ollama", "llama-server"}
        assert server.digests().keys() == {"tunny:latest"}
    assert group_of(server.pid) == {}
    assert {path.name for path in tmp_path.iterdir()} == {
        "models",
        "models.home",
        "models.log",
        "model.gguf",
        "Modelfile",
    }


def test_killed_server_leaves_nothing(program: Path, tmp_path: Path) -> None:
    """A server that crashed can't end its llama-server; who started it does."""
    with ollama_server(program, tmp_path / "models") as server:
        load_model(server, tmp_path)
        server.kill()
        assert "llama-server" in group_of(server.pid).values()
    assert group_of(server.pid) == {}


def test_models_outlive_the_server(program: Path, tmp_path: Path) -> None:
    """A server started again on the same folder has the same models."""
    with ollama_server(program, tmp_path / "models") as first:
        load_model(first, tmp_path)
        before = first.digests()
    with ollama_server(program, tmp_path / "models") as second:
        assert second.digests() == before
        assert second.answer("tunny", "Who are you?") == ANSWER


# --- the command -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def command(program: Path, models: Path, *argv: str, host: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run ``serve_ollama.py`` with `program` first on PATH, in a process group of its own."""
    environ = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "OLLAMA_HOST": host}
    process = subprocess.Popen(
        [sys.executable, SERVE, "--models", models, "--", *argv],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


TELL = """
import os, signal, sys, time, urllib.request
url = os.environ["OLLAMA_HOST"]
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url + "/api/version").read()
def caught(number, frame):
    print(signal.Signals(number).name, flush=True)
    sys.exit(40)
signal.signal(signal.SIGTERM, caught)
signal.signal(signal.SIGINT, caught)
print(url, flush=True)
time.sleep(600)
"""


def server_group(cli: int) -> int:
    """Return the process group of the server that a ``serve_ollama.py`` has started."""
    children = Path(f"/proc/{cli}/task/{cli}/children").read_text().split()
    (group,) = [pid for pid in map(int, children) if os.getpgid(pid) == pid]
    return group


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the newest pinned program, built."""
    newest = ollama_programs()[-1]
    with ollama_server(newest, tmp_path_factory.mktemp("built") / "models"):
        return newest


def test_exit_code_is_the_commands(built: Path, tmp_path: Path) -> None:
    """The command's exit code comes through, and the server is gone after it."""
    ask = "import os, sys; print(os.environ['OLLAMA_HOST']); sys.exit(7)"
    with command(built, tmp_path / "models", sys.executable, "-c", ask) as process:
        url = process.communicate(timeout=300)[0].strip()
        assert process.returncode == 7
    assert "Listening on " + url.removeprefix("http://") in (tmp_path / "models.log").read_text()


def test_command_that_is_not_there(built: Path, tmp_path: Path) -> None:
    """A command that can't be run ends with the shell's code for it."""
    with command(built, tmp_path / "models", "no-such-command") as process:
        assert process.wait(timeout=300) == 127


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_command(built: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A signal sent to the wrapper alone reaches the command, whose own way of ending counts."""
    with command(built, tmp_path / "models", sys.executable, "-c", TELL) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        group = server_group(process.pid)
        assert "ollama" in group_of(group).values()
        process.send_signal(number)
        assert process.stdout.readline().strip() == number.name
        assert process.wait(timeout=300) == 40
    wait_until_gone(group)


def test_killed_wrapper_leaves_nothing(built: Path, tmp_path: Path) -> None:
    """After a kill -9 of the wrapper neither the server, nor its llama-server, nor the command goes on."""
    with command(built, tmp_path / "models", sys.executable, "-c", TELL) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        group = server_group(process.pid)
        load_model(OllamaServer(url, built, group, tmp_path / "models"), tmp_path)
        assert set(group_of(group).values()) == {"ollama", "llama-server"}
        process.kill()
        wait_until_gone(group)
        assert process.stdout.readline().strip() == "SIGTERM"
        wait_until_gone(process.pid)  # the group that the command is in


def test_own_server_is_used_and_left_running(built: Path, tmp_path: Path) -> None:
    """Where OLLAMA_HOST names a server that answers, the command gets that one, and it goes on afterwards."""
    with ollama_server(built, tmp_path / "mine") as mine:
        ask = "import json, os; print(json.dumps(os.environ['OLLAMA_HOST']))"
        with command(built, tmp_path / "models", sys.executable, "-c", ask, host=mine.url) as process:
            assert json.loads(process.communicate(timeout=300)[0]) == mine.url
        assert mine.ask("/api/version")["version"]
        assert not (tmp_path / "models").exists()
