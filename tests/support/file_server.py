"""What the small servers that speak the hubs' protocols have in common: files in parts, faults, and a record."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """What a server was asked."""

    method: str
    path: str
    """Without the query, decoded."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""

    @property
    def first_byte(self) -> int:
        """Where the part that was asked for begins."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else 0


@dataclass
class Fault:
    """What a server does wrong when a file is asked for, as many times as told."""

    times: int = 1
    cut_after: int | None = None
    """Bytes of a body after which the connection is closed."""
    stall: float = 0.0
    """Seconds of silence after `cut_after` bytes, before the connection is closed."""
    status: int = 0
    """HTTP status instead of the file."""
    content: bytes | None = None
    """This instead of the file's content."""
    no_ranges: bool = False
    """Parts are not served: the whole file comes, with HTTP 200."""


@dataclass
class Repository:
    """A repository: files by commit, commits by branch or tag."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str] = field(default_factory=dict)
    token: str = ""
    """The token without which it is refused; empty if everybody may read it."""
    lfs: tuple[str, ...] = (".safetensors", ".parquet")
    """How the names of files end that Git LFS has."""

    @classmethod
    def of(cls, files: Mapping[str, bytes | str], *, token: str = "", commit: str = "") -> Repository:
        """Return a repository with one commit, at the branches main and master."""
        content = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        name = commit or hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()[:40]
        return cls({name: content}, {"main": name, "master": name}, token)

    @property
    def commit(self) -> str:
        """The commit of the main branch."""
        return self.refs["main"]

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.commit]

    def resolve(self, revision: str) -> str | None:
        """Return the commit of a branch, tag or commit."""
        return revision if revision in self.commits else self.refs.get(revision)

    def is_lfs(self, path: str) -> bool:
        """Return whether Git LFS has a file."""
        return path.endswith(self.lfs)


class FileServer:
    """A server on loopback, or in a pod at the pod's address; a subclass answers requests by :meth:`answer`."""

    def __init__(self, host: str = "127.0.0.1", address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.requests: list[Request] = []
        self.faults: dict[str, list[Fault]] = {}
        """By the file's path, what goes wrong next; by ``*``, at whatever is asked."""
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(address, handler)
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_port}"

    def answer(self, request: Request, reply: Reply) -> None:
        """Answer a request."""
        raise NotImplementedError

    def fails(self, path: str, **how: Any) -> None:
        """Let something go wrong when a file is asked for; see :class:`Fault`."""
        self.faults.setdefault(path, []).append(Fault(**how))

    def next_fault(self, path: str) -> Fault | None:
        """Return what goes wrong with a file now."""
        waiting = self.faults.get(path, [])
        while waiting:
            if waiting[0].times > 0:
                waiting[0].times -= 1
                return waiting[0]
            waiting.pop(0)
        return None

    def asked_for(self, end: str) -> list[Request]:
        """Return the requests whose path, or the file that they name, ends so."""
        return [item for item in self.requests if item.path.endswith(end) or item.query.get("FilePath") == end]

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        """Serve."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()


class Reply:
    """What a request is answered with."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler

    def status(self, code: int, **headers: str) -> None:
        """Answer without a body."""
        self.body(b"", code, **headers)

    def data(self, value: object, **headers: str) -> None:
        """Answer with JSON."""
        self.body(json.dumps(value).encode(), 200, **headers)

    def body(self, content: bytes, code: int = 200, **headers: str) -> None:
        """Answer with a body. In the names of headers ``_`` stands for ``-``."""
        self._begin(code, {"Content-Length": str(len(content)), **headers})
        self._handler.wfile.write(content)

    def file(self, content: bytes, request: Request, fault: Fault | None, **headers: str) -> None:
        """Answer with a file, or the part of it that is asked for, and whatever is to go wrong."""
        fault = fault or Fault()
        if fault.status:
            self.status(fault.status)
            return
        content = content if fault.content is None else fault.content
        first = 0 if fault.no_ranges else request.first_byte
        if first >= len(content) > 0:
            self.status(416, Content_Range=f"bytes */{len(content)}")
            return
        part = content[first:]
        place = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if first else {}
        self._begin(206 if first else 200, {"Content-Length": str(len(part)), **place, **headers})
        if fault.cut_after is None:
            self._handler.wfile.write(part)
            return
        self._handler.wfile.write(part[: fault.cut_after])
        self._handler.wfile.flush()
        time.sleep(fault.stall)
        self._handler.close_connection = True

    def _begin(self, code: int, headers: Mapping[str, str]) -> None:
        self._handler.send_response(code)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FileServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(parts.path), query, headers)
        self.owner.requests.append(request)
        fault = self.owner.next_fault("*")
        if fault is not None and fault.cut_after is not None:
            self.close_connection = True  # without a word: the client sees a connection that broke
        elif fault is not None:
            Reply(self).body(fault.content or b"", fault.status or 200)
        else:
            self.owner.answer(request, Reply(self))

    def log_message(self, *_: object) -> None:
        pass
