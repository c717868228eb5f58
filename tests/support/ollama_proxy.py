"""A proxy before a server, as administrators put one: it passes everything on, or answers some of it by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


@contextmanager
def ollama_proxy(target: str, answers: Mapping[str, tuple[int, bytes]]) -> Iterator[str]:
    """Run a proxy before the server at `target` until the block ends, and yield its address.

    Args:
        target: the server's address.
        answers: status and content of what the proxy answers by itself, by the beginning of ``METHOD /path``.
    """
    with httpx.Client(base_url=target, timeout=300, trust_env=False) as client:

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                request = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = f"{self.command} {self.path}"
                own = (answer for begin, answer in answers.items() if asked.startswith(begin))
                status, content = next(own, (0, b""))
                if not status:
                    passed_on = client.request(self.command, self.path, content=request)
                    status, content = passed_on.status_code, passed_on.content
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - as http.server wants them

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
            threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            yield f"http://127.0.0.1:{running.server_address[1]}"
            running.shutdown()
