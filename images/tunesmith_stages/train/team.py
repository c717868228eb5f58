"""Node 0's side of a training over several nodes: it waits for the others, hears how they end, and ends them.

The stage programs of the other nodes (:mod:`.member`) hold a line to this one as long as they live. What they say:

=============  ======================================================================================================
member, first  ``{"node", "host", "place", "key"}``: who is there, and for what
node 0         ``{"port", "attempt"}``: all are there; start the ranks in this attempt, torchrun meets at this port
member, last   a :class:`NodeEnd`: how its ranks ended
node 0, last   ``{"end": failure or null}``: the training failed for this reason, or it is finished
=============  ======================================================================================================
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith_stages.contract import Failure
from tunesmith_stages.program import classify
from tunesmith_stages.train.exchange import RankExit
from tunesmith_stages.train.gathering import free_port, greeting, listen, not_ready
from tunesmith_stages.train.launch import Meeting
from tunesmith_stages.train.link import Link
from tunesmith_stages.train.place import Place

_HELLO_SECONDS = 5.0


@dataclass(frozen=True)
class NodeEnd:
    """How a node's part in a training ended."""

    launcher: int
    """Exit code of torchrun; 0: its ranks ended well."""
    exits: tuple[RankExit, ...] = ()
    """Why its ranks gave up, in their own words."""
    codes: Mapping[int, int] = field(default_factory=dict)
    """Exit codes of ranks that failed, as its torchrun saw them."""
    failure: Failure | None = None
    """Why the stage program itself gave up, if it was not for its ranks."""
    no_memory: bool | None = None
    """Whether the kernel ended processes there for want of memory; None: nobody can tell."""

    @property
    def well(self) -> bool:
        """Whether it did its part."""
        return self.launcher == 0 and self.failure is None

    def to_message(self) -> dict[str, Any]:
        """Return it as it goes over the line."""
        return {
            "launcher": self.launcher,
            "exits": [left.to_dict() for left in self.exits],
            "codes": {str(rank): code for rank, code in self.codes.items()},
            "failure": failure_message(self.failure),
            "noMemory": self.no_memory,
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> NodeEnd:
        """Read what :meth:`to_message` made."""
        return cls(
            int(message["launcher"]),
            tuple(RankExit.from_dict(left) for left in message["exits"]),
            {int(rank): int(code) for rank, code in message["codes"].items()},
            failure_of_message(message["failure"]),
            message["noMemory"],
        )


def failure_message(failure: Failure | None) -> dict[str, Any] | None:
    """Return a failure as it goes over the line."""
    return None if failure is None else dict(json.loads(failure.to_json()))


def failure_of_message(message: Mapping[str, Any] | None) -> Failure | None:
    """Read what :func:`failure_message` made."""
    return None if message is None else Failure.from_json(json.dumps(message))


@dataclass
class Member:
    """Another node, as node 0 knows it."""

    link: Link
    host: str
    end: NodeEnd | None = None

    @property
    def lost(self) -> bool:
        """Whether it is gone without having said how it ended."""
        return self.end is None and self.link.gone


class Team:
    """The other nodes of a training, seen from node 0; none, if it trains alone."""

    def __init__(self, place: Place | None, key: str, attempt: str) -> None:
        self._place = place
        self._greeting = greeting(place, key) if place else {}
        self._attempt = attempt
        self.members: dict[int, Member] = {}

    def gather(self, patience: float, note: Callable[[str], None]) -> Meeting | None:
        """Wait until all nodes are there and tell them where to meet; None: this node trains alone.

        Raises:
            StageError: they do not come within `patience` seconds.
        """
        if self._place is None:
            return None
        end = time.monotonic() + patience
        with listen(self._place, end, note) as server:
            said = ""
            while missing := self._missing():
                waiting = f"waiting for {_listed(missing)} of {self._place.nodes}"
                if waiting != said:
                    note(said := waiting)
                if time.monotonic() > end:
                    raise not_ready(f"{_listed(missing)} of {self._place.nodes} did not come within {patience:g} s")
                with suppress(TimeoutError):
                    self._admit(server.accept()[0])
            address = server.getsockname()[0]
        meeting = Meeting(0, self._place.nodes, address, free_port(address), address)
        for member in self.members.values():
            member.link.send({"port": meeting.port, "attempt": self._attempt})
        return meeting

    def _missing(self) -> list[int]:
        self.listen()
        self.members = {node: member for node, member in self.members.items() if not member.link.gone}
        nodes = self._place.nodes if self._place else 1
        return [node for node in range(1, nodes) if node not in self.members]

    def _admit(self, connection: socket.socket) -> None:
        """Take in a node that says that it belongs to this training; hang up on everybody else."""
        try:
            link = Link(connection)
        except OSError:
            connection.close()
            return
        hello = (link.receive(_HELLO_SECONDS) or [{}])[0]
        ours = all(hello.get(name) == value for name, value in self._greeting.items())
        if ours and hello.get("node") in self._missing():
            self.members[hello["node"]] = Member(link, str(hello.get("host", "")))
        else:
            link.close()

    def listen(self) -> None:
        """Hear what the others have to say."""
        for member in self.members.values():
            for message in member.link.receive():
                if "launcher" in message:
                    member.end = NodeEnd.from_message(message)

    @property
    def broken(self) -> bool:
        """Whether a node failed or was lost, as far as has been heard."""
        return any(member.lost or (member.end and not member.end.well) for member in self.members.values())

    @property
    def ended(self) -> bool:
        """Whether every node has said how it ended, or is lost."""
        return all(member.lost or member.end for member in self.members.values())

    def name(self, node: int) -> str:
        """Return what to call a node when talking to people."""
        host = self.members[node].host
        return f"node {node} ({host})" if host else f"node {node}"

    def failures(self) -> list[Failure]:
        """Return why stage programs of other nodes gave up, where it was not for their ranks."""
        ends = {node: member.end for node, member in self.members.items() if member.end}
        return [
            replace(end.failure, message=f"{self.name(node)}: {end.failure.message}")
            for node, end in ends.items()
            if end.failure
        ]

    @contextmanager
    def informed(self) -> Iterator[None]:
        """If the block fails, tell the others why, so that they end too."""
        try:
            yield
        except BaseException as error:
            self._tell(classify(error))
            raise

    def dismiss(self) -> None:
        """Tell the others that all is done."""
        self._tell(None)

    def _tell(self, failure: Failure | None) -> None:
        for member in self.members.values():
            member.link.send({"end": failure_message(failure)})

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members.values():
            member.link.close()


def _listed(nodes: list[int]) -> str:
    return f"node{'s' if len(nodes) > 1 else ''} {', '.join(str(node) for node in nodes)}"
