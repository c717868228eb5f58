"""How the nodes of a training find each other: what they say to be let in, and where node 0 waits for them."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.place import Place

_NAME_SECONDS = 60.0
"""How long node 0's name may stand for another pod: DNS servers believe for a while what they knew."""


def greeting(place: Place, key: str) -> dict[str, str]:
    """Return what nodes must agree on to be of one training: what it makes, and where they meet.

    Each Job has a host name of its own to meet at. So a pod of an earlier one is not taken in, should it come across
    the address.
    """
    return {"place": f"{place.master}:{place.port}", "key": key}


def listen(place: Place, end: float, note: Callable[[str], None]) -> socket.socket:
    """Listen at the address that node 0's name stands for, as soon as it stands for one of this node's.

    Raises:
        StageError: it does not until `end` (by the monotonic clock), or the port is taken.
    """
    name_end = min(end, time.monotonic() + _NAME_SECONDS)
    said = ""
    while True:
        try:
            family, _, _, _, address = socket.getaddrinfo(place.master, place.port, type=socket.SOCK_STREAM)[0]
            server = socket.create_server(address[:2], family=family, backlog=place.nodes)
        except socket.gaierror as error:
            waiting = f"waiting for the name {place.master} to be known"
            if time.monotonic() > end:
                raise not_ready(f"this node's own name {place.master} is not known here: {error}") from error
        except OSError as error:
            waiting = f"waiting for the name {place.master} to be this node's"
            if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > name_end:
                raise _cannot_listen(place, error) from error
        else:
            server.settimeout(1.0)
            return server
        if waiting != said:
            note(said := waiting)
        time.sleep(1)


def free_port(address: str) -> int:
    """Return a port at one of this node's addresses that nobody uses."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        return int(server.getsockname()[1])


def _cannot_listen(place: Place, error: OSError) -> StageError:
    return StageError(
        ExitCode.TEMPORARY,
        f"node 0 cannot listen at {place.master}, port {place.port}: {error.strerror}",
        reason="MasterUnreachable",
        hint="TUNESMITH_MASTER_ADDR must be a name of the pod with index 0, and TUNESMITH_MASTER_PORT a port that "
        "nothing else uses there.",
    )


def not_ready(message: str) -> StageError:
    """Return the error of nodes that have waited for each other in vain."""
    return StageError(
        ExitCode.TEMPORARY,
        message,
        reason="NodesNotReady",
        hint="See why its pod does not run: too few GPUs, an image that takes long to pull, a Service without "
        "`publishNotReadyAddresses`, or a NetworkPolicy between the pods of the Job.",
    )
