from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.program import StageError

_FILE = 32 * 1024 * 1024
"""Bytes of a model's file: more than a connection holds on the way."""


class Gateway(socketserver.ThreadingTCPServer):
    """A proxy that has no server behind it: whatever is asked, it answers with a status and a page of its own."""

    daemon_threads = True
    status = 502

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refusing)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Refusing(socketserver.StreamRequestHandler):
    """Answers when it has read the head of a request, and not what follows, as nginx does."""

    server: Gateway

    def handle(self) -> None:
        asked = self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        page = b"" if asked.startswith(b"HEAD") else b"<html><h1>Sorry</h1></html>"
        self.wfile.write(b"HTTP/1.1 %d Sorry\r\nContent-Length: %d\r\n" % (self.server.status, len(page)))
        self.wfile.write(b"Connection: close\r\n\r\n" + page)
        self.wfile.flush()
        self.connection.settimeout(1.0)
        try:  # a while longer, so that the answer is not lost with the connection
            for _ in range(16):
                self.connection.recv(65536)
        except TimeoutError:
            pass


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


ASKED: dict[str, Callable[[Ollama, Path], object]] = {
    "its version": lambda server, _: server.version(),
    "its models": lambda server, _: server.models(),
    "an answer": lambda server, _: server.chat("bot", [{"role": "user", "content": "Hello"}], limit=1),
    "whether it has a file": lambda server, _: server.has_blob("0" * 64),
    "to take a file": lambda server, file: server.upload("0" * 64, file, lambda _: None),
    "to create a model": lambda server, _: server.create("bot", {}),
    "to remove a model": lambda server, _: server.delete("bot"),
    "to unload a model": lambda server, _: server.unload("bot"),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (413, ExitCode.BAD_CONFIG, "method Exec"),
        (429, ExitCode.UNAVAILABLE, "Wait"),
        (502, ExitCode.UNAVAILABLE, "does not reach the server"),
        (503, ExitCode.UNAVAILABLE, "Wait"),
        (504, ExitCode.UNAVAILABLE, "raise its timeout"),
    ],
)
def test_what_a_proxy_says_gets_its_class(
    gateway: Gateway, tmp_path: Path, ask: Callable[[Ollama, Path], object], status: int, code: ExitCode, hint: str
) -> None:
    """A proxy that does not get through is waited for, whatever was asked; one that limits uploads is not."""
    gateway.status = status
    file = tmp_path / "model.gguf"
    with file.open("wb") as sparse:
        sparse.truncate(_FILE)
    with Ollama(gateway.url, name="main") as server, pytest.raises(StageError) as caught:
        ask(server, file)
    assert caught.value.code is code
    assert hint in caught.value.hint
    assert f"HTTP {status}" in caught.value.message
