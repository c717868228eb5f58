"""Ports for programs that must be told theirs before they can listen, and addresses at which nobody listens."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_FIRST = 12_000
"""Below are the ports of servers that people run."""
_given: set[int] = set()


def free_port() -> int:
    """Return a port of the loopback interface on which nothing listens, and which nobody else comes upon.

    Who lets the kernel choose gets one of `ip_local_port_range`. Were ours one of them too, any program on this machine
    could be given it while ours still starts; so ours is below. It is returned to nobody again.
    """
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8").split()[0])
    ours = range(_FIRST, max(first_of_kernel, _FIRST + 1000))
    for port in random.SystemRandom().sample(ours, 100):  # no test's seed makes two processes choose the same
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
    raise AssertionError("a hundred ports, and none is free")
