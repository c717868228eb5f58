from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tunesmith.local.served import ollama_url, still_served
from tunesmith_stages.contract import StageName, StageResult

# The values are those of Ollama's own tests of `Host` and `ConnectableHost` (envconfig/config_test.go, 0.34.4), but for
# the last group: where Ollama's client leaves the host out, we write the one that is called then.
HOSTS = {
    "": "http://127.0.0.1:11434",
    "1.2.3.4": "http://1.2.3.4:11434",
    "1.2.3.4:1234": "http://1.2.3.4:1234",
    "example.com": "http://example.com:11434",
    "example.com:1234": "http://example.com:1234",
    "[::1]": "http://[::1]:11434",
    "::1": "http://[::1]:11434",
    "[::1]:1337": "http://[::1]:1337",
    " 1.2.3.4 ": "http://1.2.3.4:11434",
    '"1.2.3.4"': "http://1.2.3.4:11434",
    ' " 1.2.3.4 " ': "http://1.2.3.4:11434",
    "'1.2.3.4'": "http://1.2.3.4:11434",
    "http://1.2.3.4": "http://1.2.3.4:80",
    "http://1.2.3.4:4321": "http://1.2.3.4:4321",
    "https://1.2.3.4": "https://1.2.3.4:443",
    "https://1.2.3.4:4321": "https://1.2.3.4:4321",
    "https://example.com/ollama": "https://example.com:443/ollama",
    "https://example.com/ollama/": "https://example.com:443/ollama",
    "http://127.0.0.1:11434/": "http://127.0.0.1:11434",
    "ollama.com": "https://ollama.com:443",
    "0.0.0.0": "http://127.0.0.1:11434",  # noqa: S104 - nothing is bound to it
    "0.0.0.0:1234": "http://127.0.0.1:1234",
    "[::]": "http://[::1]:11434",
    "[::]:1234": "http://[::1]:1234",
    "192.168.1.5:8080": "http://192.168.1.5:8080",
    "https://0.0.0.0:4321": "https://127.0.0.1:4321",
    "1.2.3.4:66000": "http://1.2.3.4:11434",
    "1.2.3.4:-1": "http://1.2.3.4:11434",
    "1.2.3.4:port": "http://1.2.3.4:11434",
    # no host
    ":1234": "http://127.0.0.1:1234",
    ":0": "http://127.0.0.1:0",
    ":66000": "http://127.0.0.1:11434",
    "http://:4321": "http://127.0.0.1:4321",
}


@pytest.mark.parametrize("given", HOSTS)
def test_address_is_read_as_ollama_reads_it(given: str) -> None:
    """Whatever works for `ollama list` works here, and names the same server."""
    assert ollama_url({"OLLAMA_HOST": given}) == HOSTS[given]


def test_address_without_the_variable() -> None:
    """Without OLLAMA_HOST it is the local server."""
    assert ollama_url({}) == "http://127.0.0.1:11434"


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Serve one answer to whatever is asked, and give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/api/tags" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


REGISTERED = StageResult(
    StageName.REGISTER,
    "register",
    "k" * 64,
    1,
    "d" * 64,
    "made",
    (),
    outputs={"models": {"bot:v1": {"digest": "aa"}, "bot:v1-q8_0": {"digest": "bb"}}},
)


def tags(**models: str) -> bytes:
    return json.dumps({"models": [{"name": name, "digest": digest} for name, digest in models.items()]}).encode()


ANSWERS: dict[str, tuple[int, bytes, bool | None]] = {
    "both as registered": (200, tags(**{"bot:v1": "aa", "bot:v1-q8_0": "bb", "other:latest": "cc"}), True),
    "one is gone": (200, tags(**{"bot:v1": "aa"}), False),
    "one was replaced": (200, tags(**{"bot:v1": "aa", "bot:v1-q8_0": "zz"}), False),
    "none is there": (200, b'{"models": []}', False),
    "none is there, in Go's manner": (200, b'{"models": null}', False),
    "an error": (500, b"{}", None),
    "not JSON": (200, b"<html>", None),
    "something else": (200, b"{}", None),
    "a list": (200, b"[]", None),
    "models without names": (200, b'{"models": [{}]}', None),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_server_has(name: str) -> None:
    """A model counts as served only if the server has it under its name as it was made; no clear answer is none."""
    status, body, served = ANSWERS[name]
    with answering(status, body) as url:
        assert still_served(REGISTERED, url) is served


def test_nobody_answers() -> None:
    """A server that is down is not the same as one without the model."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert still_served(REGISTERED, f"http://127.0.0.1:{unused.getsockname()[1]}") is None


def test_somebody_else_answers() -> None:
    """What answers there may not speak HTTP at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-x\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        assert still_served(REGISTERED, f"http://127.0.0.1:{server.getsockname()[1]}") is None
        thread.join()
