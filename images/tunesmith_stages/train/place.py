"""Where a program stands among the nodes of a training: what the environment says of it. Pure.

Kubernetes gives each pod of an Indexed Job its number (``JOB_COMPLETION_INDEX``); the headless Service gives node 0 a
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

INDEX = "JOB_COMPLETION_INDEX"
MASTER_ADDRESS = "TUNESMITH_MASTER_ADDR"
MASTER_PORT = "TUNESMITH_MASTER_PORT"

_DEFAULT_PORT = 29400


@dataclass(frozen=True)
class Place:
    """One node among those that train together."""

    node: int
    """Counted from 0; node 0 leads."""
    nodes: int
    master: str
    """Host name or address of node 0."""
    port: int
    """Where node 0 meets the others."""


def read_place(nodes: int, environ: Mapping[str, str]) -> Place | None:
    """Return this node's place, or None if it trains alone; the environment is not looked at then.

    Raises:
        StageError: a variable is missing or not usable.
    """
    if nodes == 1:
        return None
    node = _number(environ, INDEX, 0, nodes - 1, None)
    port = _number(environ, MASTER_PORT, 1, 65535, _DEFAULT_PORT)
    master = environ.get(MASTER_ADDRESS, "")
    if not master:
        raise _unusable(f"`nodes` is {nodes}, so {MASTER_ADDRESS} must be the host name of node 0; it is not set")
    return Place(node, nodes, master, port)


def _number(environ: Mapping[str, str], name: str, lowest: int, highest: int, default: int | None) -> int:
    given = environ.get(name, "" if default is None else str(default))
    if not given.isdecimal() or not lowest <= int(given) <= highest:
        raise _unusable(f"{name} must be a number from {lowest} to {highest}, got {given!r}")
    return int(given)


def _unusable(message: str) -> StageError:
    return StageError(
        ExitCode.BAD_CONFIG,
        message,
        reason="NodeUnplaced",
        hint="Run a training over several nodes as an Indexed Job with a headless Service, as `tunesmith render` "
        "prints it.",
    )
