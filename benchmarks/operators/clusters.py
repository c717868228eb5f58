"""The cluster that each gets for itself: an API server with the controllers, and nodes whose Pods run for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import control_plane
from benchmarks.operators.system import NAMESPACE

from support.cluster import ApiServer, api_server

_NODES = 30
"""With 128 cores and 512 GiB each: the Pods of 5,000 objects have room."""


@contextmanager
def new_cluster(folder: Path) -> Iterator[ApiServer]:
    """Run a cluster with the namespace of the objects until the block ends."""
    with api_server(folder / "cluster") as server:
        kwok = control_plane.kwok(server.plane)
        endless = tuple(word for word in kwok.argv if not word.endswith("pod-complete.yaml"))
        server.daemons.start(replace(kwok, argv=endless))
        server.add_nodes(_NODES)
        server.kubectl("create", "namespace", NAMESPACE)
        yield server
