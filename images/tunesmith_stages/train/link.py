"""The line between the stage programs of two nodes: one JSON object per line over TCP. Standard library only.

Ranks notice late that a machine is gone (NCCL and Gloo wait for 10 to 30 minutes), and files on a network file system
are seen late. A TCP connection tells in milliseconds that the other program has ended, however it did, and within a
minute that its machine is gone. Both ends belong to the same training and know its key: see :mod:`.team`.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any

_SEND_SECONDS = 5.0
_LONGEST = 1 << 20  # bytes: more than any message holds

_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""Linux' options (tcp(7)): the first question after 15 s of silence, given up after 60 s."""


class Link:
    """One end of a connection. What goes wrong with it shows in `gone`; nothing is raised."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SEND_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._connection = connection
        self._buffer = b""
        self.gone = False
        """Nothing more will come."""
        self.own_address: str = connection.getsockname()[0]
        self.peer_address: str = connection.getpeername()[0]

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message."""
        if self.gone:
            return
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.close()

    def receive(self, seconds: float = 0.0) -> list[dict[str, Any]]:
        """Return the messages that have come, waiting for the first for at most `seconds`."""
        if self.gone or not select.select([self._connection], [], [], seconds)[0]:
            return []
        try:
            part = self._connection.recv(1 << 16)
        except OSError:
            part = b""
        *lines, self._buffer = (self._buffer + part).split(b"\n")
        messages = _read(lines)
        if not part or messages is None or len(self._buffer) > _LONGEST:
            self.close()
        return messages or []

    def close(self) -> None:
        """Close the connection."""
        self.gone = True
        self._connection.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """Return the messages, or None if one is no JSON object: whoever wrote it is none of ours."""
    try:
        messages = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        return None
    return messages if all(isinstance(message, dict) for message in messages) else None
