"""Real Ollama servers of the pinned versions, each on a loopback port of its own, with models in a given folder."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))  # scripts, not a package that is installed

import ollama
import serve_ollama

from support.ports import free_port as free_port  # noqa: PLC0414 - benchmarks take it from here


def ollama_programs() -> list[Path]:
    """Return the pinned Ollama programs, newest last, built or not: for ``pytest.fixture(params=...)``."""
    return [ollama.pinned(version).path for version in reversed(ollama.pinned_versions())]


@dataclass(frozen=True)
class OllamaServer:
    """A running server."""

    url: str
    program: Path
    pid: int
    models: Path
    """Where it keeps its models."""

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """Send a request by other means than the code under test, and return the JSON of the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)  # noqa: S310 - our own server
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=300) as answer:
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
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


@contextmanager
def ollama_server(program: Path, models: Path, *, wrap: Sequence[str] = ()) -> Iterator[OllamaServer]:
    """Run one of :func:`ollama_programs` until the block ends, built first if need be.

    `wrap` is a command line that ends by running its last arguments.
    """
    for version in ollama.pinned_versions():
        if program == ollama.pinned(version).path:
            ollama.ensure(version)
    with serve_ollama.serve(program, models, wrap=wrap) as server:
        yield OllamaServer(server.url, program, server.pid, models)
