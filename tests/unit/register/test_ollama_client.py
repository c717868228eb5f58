from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_refusal import meaning
from tunesmith_stages.program import StageError


@pytest.mark.parametrize("address", ["", "127.0.0.1:11434", "localhost", "ftp://h:1", "http://", "http:///x"])
def test_addresses_that_lead_nowhere_are_refused(address: str) -> None:
    """An address without scheme or host is a mistake in the job or its surroundings, and is shown."""
    with pytest.raises(StageError) as caught:
        Ollama(address)
    assert caught.value.code is ExitCode.BAD_CONFIG
    assert repr(address) in caught.value.message


@pytest.mark.parametrize(
    ("status", "text", "code", "reason"),
    [
        (500, "write /m/blobs/sha256-1: no space left on device", ExitCode.NO_SPACE, "OllamaNoSpace"),
        (400, "invalid model name", ExitCode.BAD_CONFIG, "InvalidModelName"),
        (400, 'digest mismatch, expected "a", got "b"', ExitCode.BAD_DATA, "DamagedModelFile"),
        (500, "unexpected EOF", ExitCode.BAD_DATA, "DamagedModelFile"),
        (500, "cudaMalloc failed: out of memory", ExitCode.OUT_OF_MEMORY, "OllamaOutOfMemory"),
        (403, "", ExitCode.NO_PERMISSION, "OllamaForbidden"),
        (503, "server busy, please try again", ExitCode.UNAVAILABLE, "OllamaBusy"),
        (400, "LoRA adapters are no longer supported", ExitCode.GATE_FAILED, "OllamaRefused"),
    ],
)
def test_what_a_server_complains_of_gets_its_class(status: int, text: str, code: ExitCode, reason: str) -> None:
    """Each complaint of a server that means something to a person has a reason of its own, the rest a common one."""
    assert meaning(status, text)[:2] == (code, reason)


# --- https and proxies -----------------------------------------------------------------------------------------------


class Versioned(BaseHTTPRequestHandler):
    """Says its version to whoever asks."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"version": "0.34.4"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Versioned)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def certificate(server: ThreadingHTTPServer, tmp_path: Path) -> str:
    """Let the server speak https with a certificate that only itself vouches for, and return that."""
    key, pem = tmp_path / "key.pem", tmp_path / "cert.pem"
    argv: list[str | Path] = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-nodes", "-days", "1", "-subj", "/CN=ollama", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*argv, "-keyout", key, "-out", pem], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return pem.read_text()


def test_given_certificates_are_trusted(server: ThreadingHTTPServer, certificate: str) -> None:
    """A server with a certificate of the administrator's own authority is trusted if that is given."""
    with Ollama(f"https://127.0.0.1:{server.server_port}", ca_bundle=certificate) as client:
        assert client.version() == "0.34.4"


@pytest.mark.usefixtures("certificate")
def test_other_certificates_are_not_trusted(server: ThreadingHTTPServer) -> None:
    """A server whose certificate nobody vouches for is not spoken to, and the hint says where to put the authority."""
    url = f"https://127.0.0.1:{server.server_port}"
    with Ollama(url, name="main") as client, pytest.raises(StageError) as caught:
        client.version()
    assert (caught.value.code, caught.value.reason) == (ExitCode.UNAVAILABLE, "OllamaCertificateNotTrusted")
    assert "`main` at https://127.0.0.1" in caught.value.message
    assert "caBundle" in caught.value.hint


@pytest.mark.parametrize("bundle", ["nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_certificates_that_are_none_are_refused(bundle: str) -> None:
    """Certificates that cannot be read are a mistake in the administrator's settings, not of the server."""
    with pytest.raises(StageError) as caught:
        Ollama("https://127.0.0.1:1", ca_bundle=bundle)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "InvalidCaBundle")


def test_no_proxy_stands_between(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to Ollama does not go through a proxy of the environment."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Ollama(f"http://127.0.0.1:{server.server_port}") as client:
        assert client.version() == "0.34.4"
