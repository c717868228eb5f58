"""The line between nodes, over real sockets on the loopback interface."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from support.ports import free_port
from tunesmith_stages.contract import ExitCode, Failure
from tunesmith_stages.program import InterruptedStage, StageError
from tunesmith_stages.train.exchange import RankExit
from tunesmith_stages.train.launch import Meeting
from tunesmith_stages.train.link import Link
from tunesmith_stages.train.place import Place
from tunesmith_stages.train.team import NodeEnd, Team

KEY = "a" * 64
ATTEMPT = "job-train-1"
DISK_FULL = Failure(ExitCode.NO_SPACE, "NoSpace", "disk full", "free some")


def silent(_note: str) -> None:
    """Say nothing."""


@contextmanager
def gathering(nodes: int = 2, patience: float = 10.0) -> Iterator[tuple[Team, threading.Thread, int, list[object]]]:
    """Yield node 0's team, which waits for the others in a thread; its outcome comes into the list."""
    port, outcome = free_port(), list[object]()
    with Team(Place(0, nodes, "127.0.0.1", port), KEY, ATTEMPT) as team:

        def gather() -> None:
            try:
                outcome.append(team.gather(patience, outcome.append))
            except StageError as error:
                outcome.append(error)

        thread = threading.Thread(target=gather)
        thread.start()
        yield team, thread, port, outcome
        thread.join()


def hello(port: int, **differing: object) -> dict[str, object]:
    """Return what node 1 says first to node 0 at `port`, or one who differs from it."""
    return {"place": f"127.0.0.1:{port}", "key": KEY, "node": 1, "host": "pod-1", **differing}


def connect(port: int) -> socket.socket:
    """Connect as soon as somebody listens."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 5)
        except ConnectionRefusedError:
            continue


@contextmanager
def joined() -> Iterator[tuple[Team, Link]]:
    """Yield node 0's team and the line that node 1 holds to it."""
    with gathering() as (team, thread, port, _):
        link = Link(connect(port))
        link.send(hello(port))
        thread.join()
        with link:
            yield team, link


def heard(link: Link) -> list[dict[str, object]]:
    """Return everything that comes until there is nothing more to come."""
    messages = []
    while not link.gone and (part := link.receive(0.5)):
        messages += part
    return messages


def test_all_learn_where_to_meet() -> None:
    """Node 0 says whom it waits for; when all are there, each is told the port and the attempt."""
    with gathering(3) as (team, thread, port, outcome):
        first, second = Link(connect(port)), Link(connect(port))
        second.send(hello(port, node=2, host="pod-2"))
        first.send(hello(port))
        thread.join()
        meeting = outcome[-1]
        assert isinstance(meeting, Meeting)
        assert (meeting.node, meeting.nodes, meeting.master) == (0, 3, "127.0.0.1")
        assert heard(first) == heard(second) == [{"port": meeting.port, "attempt": ATTEMPT}]
        assert outcome[0] == "waiting for nodes 1, 2 of 3"
        assert [team.name(node) for node in (1, 2)] == ["node 1 (pod-1)", "node 2 (pod-2)"]
        first.close()
        second.close()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param({"place": "job-train-0-0.job-train-0.team.svc:29400"}, id="a pod of an earlier attempt"),
        pytest.param({"key": "b" * 64}, id="a pod of another training"),
        pytest.param({"node": 0}, id="node 0 twice"),
        pytest.param({"node": 2}, id="a node too many"),
        pytest.param({"node": [1]}, id="no number"),
        pytest.param("GET / HTTP/1.1", id="no JSON"),
        pytest.param("[" * 100_000, id="JSON without end"),
        pytest.param("[]", id="JSON of another kind"),
    ],
)
def test_strangers_are_sent_away(words: str | dict[str, object]) -> None:
    """A stranger neither joins nor keeps those out who belong here."""
    with gathering() as (team, thread, port, outcome):
        stranger = connect(port)
        text = words if isinstance(words, str) else json.dumps(hello(port, **words))
        stranger.sendall(text.encode() + b"\n")
        with suppress(ConnectionResetError):  # that is how a line ends on which something was not read
            assert stranger.recv(100) == b""
        link = Link(connect(port))
        link.send(hello(port))
        thread.join()
        assert isinstance(outcome[-1], Meeting)
        assert list(team.members) == [1]
        stranger.close()
        link.close()


def test_who_left_before_the_start_may_come_again() -> None:
    """A node that was there and is gone is waited for like one that never came."""
    with gathering(3) as (_, thread, port, outcome):
        lost = Link(connect(port))
        lost.send(hello(port))
        while "waiting for node 2 of 3" not in outcome:
            pass
        lost.close()
        links = [Link(connect(port)), Link(connect(port))]
        links[0].send(hello(port, node=2))
        links[1].send(hello(port))
        thread.join()
        assert isinstance(outcome[-1], Meeting)
        for link in links:
            link.close()


def test_waiting_has_an_end() -> None:
    """What is missing is named; another try may find it there."""
    with gathering(3, patience=0.1) as (_, thread, _port, outcome):
        thread.join()
    error = outcome[-1]
    assert isinstance(error, StageError)
    assert (error.code, error.reason) == (ExitCode.TEMPORARY, "NodesNotReady")
    assert error.message == "nodes 1, 2 of 3 did not come within 0.1 s"


def test_a_name_that_is_not_ours_is_said() -> None:
    """Node 0 listens where the others will look for it: a name may stand for the pod before it, but not for long."""
    said: list[str] = []
    with Team(Place(0, 2, "192.0.2.1", 29400), KEY, ATTEMPT) as team, pytest.raises(StageError) as caught:
        team.gather(0.1, said.append)
    assert caught.value.reason == "MasterUnreachable"
    assert "192.0.2.1" in caught.value.message
    assert said == ["waiting for the name 192.0.2.1 to be this node's"]


def test_a_port_that_is_taken_is_said_at_once() -> None:
    """Nothing else may use it in node 0's pod, and it will not go away by waiting."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = Place(0, 2, "127.0.0.1", other.getsockname()[1])
        with Team(place, KEY, ATTEMPT) as team, pytest.raises(StageError) as caught:
            team.gather(60, silent)
    assert caught.value.reason == "MasterUnreachable"


def test_one_node_waits_for_nobody() -> None:
    """Nothing listens where one machine trains alone."""
    with Team(None, KEY, ATTEMPT) as team:
        assert team.gather(0, silent) is None
        assert not team.broken
        assert team.ended


ENDS = [
    pytest.param(NodeEnd(0), False, id="well"),
    pytest.param(NodeEnd(74, (RankExit(3, 1.5, DISK_FULL),), {2: -9, 3: 74}), True, id="its ranks failed"),
    pytest.param(NodeEnd(0, failure=DISK_FULL), True, id="its program failed"),
    pytest.param(NodeEnd(1, (), {3: -9}, no_memory=False), True, id="a rank was killed, and not by the kernel"),
]


@pytest.mark.parametrize(("end", "broken"), ENDS)
def test_node_0_hears_how_a_node_ended(end: NodeEnd, broken: bool) -> None:
    """All that is known of the other node's ranks arrives; a line that ends after that is no loss."""
    with joined() as (team, link):
        assert (team.ended, team.broken) == (False, False)
        link.send(end.to_message())
        link.close()
        while not team.members[1].link.gone:
            team.listen()
        assert team.members[1].end == end
        assert (team.ended, team.broken, team.members[1].lost) == (True, broken, False)


def test_a_program_that_failed_is_named() -> None:
    """Whoever reads the failure on node 0 knows on which node it happened."""
    with joined() as (team, link):
        link.send(NodeEnd(0, failure=DISK_FULL).to_message())
        while not team.ended:
            team.listen()
        assert [failure.message for failure in team.failures()] == ["node 1 (pod-1): disk full"]


def test_a_line_that_breaks_without_a_word_is_a_lost_node() -> None:
    """A program killed with -9 says nothing, but the kernel closes its connection at once."""
    with joined() as (team, link):
        link.close()
        while not team.members[1].link.gone:
            team.listen()
        assert (team.ended, team.broken, team.members[1].lost) == (True, True, True)


@pytest.mark.parametrize(
    ("error", "code"),
    [(StageError(ExitCode.NO_SPACE, "disk full"), 74), (InterruptedStage("SIGTERM"), 81), (ValueError("bug"), 70)],
)
def test_the_others_learn_why_it_failed(error: BaseException, code: int) -> None:
    """They end by the same class as node 0."""
    with joined() as (team, link):
        with pytest.raises(type(error)), team.informed():
            raise error
        _, told = heard(link)
        end = told["end"]
        assert isinstance(end, dict)
        assert end["code"] == code


def test_the_others_learn_that_it_is_done() -> None:
    """The end of the line is no loss of node 0 then."""
    with joined() as (team, link):
        team.dismiss()
        assert heard(link)[-1] == {"end": None}


def test_messages_arrive_whole() -> None:
    """A message that comes in pieces waits for its end, two that come at once are two."""
    server = socket.create_server(("127.0.0.1", 0))
    left, right = socket.create_connection(server.getsockname()), server.accept()[0]
    server.close()
    with Link(right) as link:
        left.sendall(b'{"a": ')
        assert link.receive(1) == []
        left.sendall(b'1}\n{"b": 2}\n')
        assert link.receive(1) == [{"a": 1}, {"b": 2}]
        left.close()
        assert link.receive(1) == []
        assert link.gone
        link.send({"to": "nobody"})
