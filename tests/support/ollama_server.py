"""Starts a real Ollama on a free loopback port, with models in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def ollama_programs() -> list[Path]:
    """Return the Ollama programs to test with: TUNESMITH_TEST_OLLAMA (paths between colons), else those there are.

    Raises:
        FileNotFoundError: there is none; ``make toolchain`` builds one.
    """
    given = [Path(part) for part in os.environ.get("TUNESMITH_TEST_OLLAMA", "").split(":") if part]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith" / "toolchain"
    found = given or sorted(cache.glob("ollama-*/bin/ollama"))
    if not found and (on_path := shutil.which("ollama")):
        found = [Path(on_path)]
    if not found:
        raise FileNotFoundError("no Ollama: run `make toolchain`, or set TUNESMITH_TEST_OLLAMA")
    return found


@dataclass
class OllamaServer:
    """A running server."""

    url: str
    program: Path
    process: subprocess.Popen[bytes]

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """Send a request by other means than the code under test, and return the JSON of the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)  # noqa: S310 - our own server
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            content = answer.read()
        return json.loads(content) if content else None

    def digests(self) -> dict[str, str]:
        """Return the digest of every model that the server has, by name."""
        return {model["name"]: model["digest"] for model in self.ask("/api/tags")["models"]}

    def answer(self, model: str, prompt: str) -> str:
        """Return what a model answers to a prompt."""
        messages = [{"role": "user", "content": prompt}]
        options = {"temperature": 0, "num_predict": 64}
        reply = self.ask(
            "/api/chat", {"model": model, "messages": messages, "stream": False, "options": options, "keep_alive": 0}
        )
        return str(reply["message"]["content"])

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    """Return a port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ollama_server(program: Path, models: Path, *, wrap: Sequence[str] = ()) -> Iterator[OllamaServer]:
    """Run a server until the block ends; `wrap` is a command line that ends by running its last arguments."""
    url = f"http://127.0.0.1:{free_port()}"
    models.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "OLLAMA_HOST": url, "OLLAMA_MODELS": str(models), "OLLAMA_NUM_PARALLEL": "1"}
    with (models.parent / "ollama.log").open("ab") as log:
        process = subprocess.Popen([*wrap, program, "serve"], env=environ, stdout=log, stderr=subprocess.STDOUT)
    server = OllamaServer(url, program, process)
    try:
        _wait(server)
        yield server
    finally:
        process.terminate()
        process.wait()


def _wait(server: OllamaServer) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            server.ask("/api/version")
        except (urllib.error.URLError, ConnectionError):
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
