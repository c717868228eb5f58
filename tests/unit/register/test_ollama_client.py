from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from support.https_server import Https, Versioned, https_server
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_refusal import meaning
from tunesmith_stages.program import StageError


@pytest.mark.parametrize("address", ["", "127.0.0.1:11434", "localhost", "ftp://h:1", "http://", "http:///x"])
def test_addresses_that_lead_nowhere_are_refused(address: str) -> None:
    """An address without scheme or host is a mistake in the job or its surroundings, and is shown."""
    with pytest.raises(StageError) as caught:
        Ollama(address)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "InvalidOllamaAddress")
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
        (405, "", ExitCode.NO_PERMISSION, "OllamaForbidden"),
        (413, "", ExitCode.BAD_CONFIG, "OllamaUploadTooLarge"),
        (429, "", ExitCode.UNAVAILABLE, "OllamaBusy"),
        (500, "", ExitCode.GATE_FAILED, "OllamaRefused"),
        (502, "", ExitCode.UNAVAILABLE, "OllamaUnreachable"),
        (503, "server busy, please try again", ExitCode.UNAVAILABLE, "OllamaBusy"),
        (504, "", ExitCode.UNAVAILABLE, "OllamaProxyTimeout"),
        (400, "LoRA adapters are no longer supported", ExitCode.GATE_FAILED, "OllamaRefused"),
    ],
)
def test_what_a_server_complains_of_gets_its_class(status: int, text: str, code: ExitCode, reason: str) -> None:
    """Each complaint of a server that means something to a person has a reason of its own, the rest a common one."""
    assert meaning(status, text)[:2] == (code, reason)


# --- https and proxies -----------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Versioned)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def https(tmp_path: Path) -> Iterator[Https]:
    """Run a server that speaks https, with a certificate of an authority that nobody knows."""
    with https_server(tmp_path) as running:
        yield running


@pytest.mark.parametrize("comment", ["", "# Autorité de certification\n"], ids=["plain", "with a comment"])
def test_given_certificates_are_trusted(https: Https, comment: str) -> None:
    """A server with a certificate of the administrator's own authority is trusted if that is given."""
    with Ollama(https.url, ca_bundle=comment + https.authority) as client:
        assert client.version() == "0.34.4"


def test_other_certificates_are_not_trusted(https: Https) -> None:
    """A server whose certificate nobody vouches for is not spoken to, and the hint says where to put the authority."""
    with Ollama(https.url, name="main") as client, pytest.raises(StageError) as caught:
        client.version()
    assert (caught.value.code, caught.value.reason) == (ExitCode.UNAVAILABLE, "OllamaCertificateNotTrusted")
    assert "`main` at https://127.0.0.1" in caught.value.message
    assert "caBundle" in caught.value.hint


def test_certificates_are_for_one_server(https: Https, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority of one server is not trusted for another, and who has its own is not trusted for any other's."""
    (tmp_path / "other").mkdir()
    with https_server(tmp_path / "other") as other:
        with Ollama(https.url, ca_bundle=https.authority) as client:
            assert client.version() == "0.34.4"
        with Ollama(other.url) as client, pytest.raises(StageError, match="CERTIFICATE_VERIFY_FAILED"):
            client.version()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        with Ollama(https.url, ca_bundle=other.authority) as client, pytest.raises(StageError, match="VERIFY_FAILED"):
            client.version()


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
