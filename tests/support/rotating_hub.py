"""A hub whose token is changed in the middle of a download; a program that a pod runs (:mod:`.hub_pod`).

It has one dataset, which :data:`TOKENS` open one after the other. The first is good for half of the file. What it is
asked for is told on stdout, one line of JSON for each request.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from support.file_server import Fault, Reply, Repository, Request
from support.hub_server import HubServer

REPOSITORY = "acme/faq"
FILE = "faq.json"
PORT = 8000
TOKENS = ("hf-of-monday", "hf-of-tuesday")


class RotatingHub(HubServer):
    """The hub, with the content of its one file."""

    def __init__(self, content: bytes, address: tuple[str, int]) -> None:
        self.dataset = Repository.of({FILE: content}, token=TOKENS[0])
        super().__init__({f"datasets/{REPOSITORY}": self.dataset}, address=address)
        self.fails(FILE, cut_after=len(content) // 2)

    def answer(self, request: Request, reply: Reply) -> None:
        """Tell what is asked for, and answer."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        told = {"path": request.path, "token": token, "first": request.first_byte}
        print(json.dumps({**told, "refused": token != self.dataset.token}), flush=True)
        super().answer(request, reply)

    def next_fault(self, path: str) -> Fault | None:
        """Change the token when the download is to break off."""
        fault = super().next_fault(path)
        if fault is not None:
            self.dataset.token = TOKENS[1]
        return fault


if __name__ == "__main__":
    with RotatingHub(Path(sys.argv[1]).read_bytes(), (os.environ["POD_IP"], PORT)).running():
        threading.Event().wait()
