"""A server of https on loopback, with a certificate that nobody vouches for but an authority of its own."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Https:
    """Where the server answers, and whom to trust for it."""

    url: str
    authority: str
    """PEM text."""


class Versioned(BaseHTTPRequestHandler):
    """Says the version of an Ollama to whoever asks."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"version": "0.34.4"}')

    def log_message(self, *_: object) -> None:
        pass


def own_authority(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return how a server on loopback shows who it is, and the file with the authority that vouches for it."""
    key, pem = folder / "key.pem", folder / "cert.pem"
    argv: list[str | Path] = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-nodes", "-days", "1", "-subj", f"/CN={folder.name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*argv, "-keyout", key, "-out", pem], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return context, pem


@contextmanager
def https_server(folder: Path) -> Iterator[Https]:
    """Run a server that keeps its files in `folder`."""
    context, pem = own_authority(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Versioned)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield Https(f"https://127.0.0.1:{server.server_port}", pem.read_text())
    finally:
        server.shutdown()
        server.server_close()
