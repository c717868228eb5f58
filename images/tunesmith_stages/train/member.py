"""The stage program on a node other than 0: it runs its ranks within the attempt of node 0, and makes nothing itself.

The attempt's folder, the result and the report are node 0's. This program holds a line to node 0 as long as it lives
(:mod:`.team` has the words) and ends when the training does: 0 if its ranks ended well, else by the class of what
ended it all.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode, Failure
from tunesmith_stages.program import InterruptedStage, StageError, Work, classify
from tunesmith_stages.train.causes import lost_nodes, root_cause
from tunesmith_stages.train.checkpoints import SEEN_WITHIN
from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.gathering import greeting, not_ready
from tunesmith_stages.train.launch import Meeting
from tunesmith_stages.train.link import Link
from tunesmith_stages.train.memory_events import KernelKills
from tunesmith_stages.train.parent import last_words
from tunesmith_stages.train.place import INDEX, Place, read_place
from tunesmith_stages.train.ranks import let_ranks_end, running_ranks
from tunesmith_stages.train.settings import Settings, read_settings
from tunesmith_stages.train.stillness import STALLED, ask_where
from tunesmith_stages.train.team import NodeEnd, failure_of_message
from tunesmith_stages.train.watchdog import with_aborted

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_RETRY_SECONDS = 1.0
_CONNECT_SECONDS = 5.0
_END_SECONDS = 10.0
"""How long torchrun may take to end once node 0 has all that it wants."""
_VERDICT_SECONDS = 30.0
"""How long node 0 may take to find out why it all failed."""


def take_part(work: Work) -> None:
    """Run this node's ranks, from when all nodes are there to the end of the training.

    Raises:
        StageError: it failed, here or elsewhere.
    """
    settings = read_settings(work.params, work.runtime)
    place = read_place(settings.nodes, os.environ)
    if place is None:
        raise StageError(ExitCode.BAD_CONFIG, f"{INDEX} names a further node, but `nodes` is 1", reason="NodeUnplaced")
    joined = _join(work, place, settings.nodes_timeout)
    if joined is None:
        log.info("the training has a result already")
        return
    link, start = joined
    with link:
        with _told(link):
            work = _within(work, start["attempt"])
            _wait_for_volume(work)
        meeting = Meeting(place.node, place.nodes, link.peer_address, int(start["port"]), link.own_address)
        _run(work, link, settings, meeting)


def _run(work: Work, link: Link, settings: Settings, meeting: Meeting) -> None:
    """Run this node's ranks.

    Raises:
        StageError: they failed, or others.
    """
    log.info("starting %d process(es) as node %d of %d", settings.processes, meeting.node, meeting.nodes)
    exchange, kills = Exchange(work.folder), KernelKills()
    with running_ranks(work.folder, settings, meeting) as process, _told(link):
        try:
            if _watch(process, link):
                return
        except InterruptedStage:
            let_ranks_end(process, exchange, meeting.node, settings.shutdown, lambda: not (link.receive() or link.gone))
            raise
        except StageError as error:
            if error.reason == STALLED:
                ask_where(process)
            raise
    own = _end_of(process.returncode, exchange, settings, meeting.node, no_memory=kills.happened())
    _answer(own, link, work.folder, settings, meeting.node)


def _within(work: Work, attempt: str) -> Work:
    """Return the same work in node 0's attempt. That bears the Job's name, and a number if the Job was suspended.

    Raises:
        StageError: it has another name, and might be anywhere.
    """
    if not re.fullmatch(rf"{re.escape(work.config.attempt)}(-[0-9]+)?", attempt):
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"node 0 is at the attempt {attempt!r}, this node at {work.config.attempt!r}",
            reason="NodeUnplaced",
            hint="Start the program on every node with the same stage.json and the same `--attempt`.",
        )
    folder = work.volume.attempt(work.config.stage, work.unit.key, attempt)
    return replace(work, config=replace(work.config, attempt=attempt), folder=folder)


# --- finding node 0 --------------------------------------------------------------------------------------------------


def _join(work: Work, place: Place, patience: float) -> tuple[Link, dict[str, Any]] | None:
    """Wait until node 0 says that all are there, return the line to it and what it says; None: nothing is left to do.

    Raises:
        StageError: it does not within `patience` seconds, or its attempt is over.
    """
    end = time.monotonic() + patience
    said = ""
    while not _over(work):
        try:
            link = Link(socket.create_connection((place.master, place.port), _CONNECT_SECONDS))
            log.info("node 0 is there; waiting for the others")
            start = _wait_for_start(link, work, place)
            if start is not None:
                return link, start
            waiting = "node 0 hung up before all were there"
        except OSError as error:
            waiting = str(error)
        if time.monotonic() > end:
            raise not_ready(f"node 0 ({place.master}, port {place.port}) not ready in {patience:g} s: {waiting}")
        if waiting != said:
            log.info("waiting for node 0 (%s, port %d): %s", place.master, place.port, waiting)
        said = waiting
        time.sleep(_RETRY_SECONDS)
    return None


def _over(work: Work) -> bool:
    """Return whether the training has a result.

    An attempt that was interrupted is not over: a queue such as Kueue suspends a Job and lets it go on later, with new
    pods, under the same name. If it does not go on, Kubernetes ends this pod.

    Raises:
        StageError: node 0's attempt has failed.
    """
    if work.volume.result(work.config.stage, work.unit.key) is not None:
        return True
    with suppress(FileNotFoundError):
        failure = Failure.from_json((work.folder / "failure.json").read_text(encoding="utf-8"))
        if failure.code is not ExitCode.INTERRUPTED:
            raise _error(failure)
    return False


def _wait_for_start(link: Link, work: Work, place: Place) -> dict[str, Any] | None:
    """Say who is there and return node 0's word to start; None: it hung up."""
    link.send({**greeting(place, work.unit.key), "node": place.node, "host": platform.node()})
    try:
        while not link.gone:
            for message in link.receive(_RETRY_SECONDS):
                if "port" in message:
                    return message
                _heed(message)
    except BaseException:
        link.close()
        raise
    return None


def _wait_for_volume(work: Work) -> None:
    """Wait until this node sees what node 0 sees: the attempt's folder, which that has made, and the inputs.

    Raises:
        StageError: it does not.
    """
    wanted = [Exchange(work.folder).folder, *(work.volume.root / item.path for item in work.unit.inputs.values())]
    end = time.monotonic() + SEEN_WITHIN
    while unseen := [path for path in wanted if not path.is_dir()]:
        if time.monotonic() > end:
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"a folder that node 0 sees is not on this node's volume: {unseen[0]}",
                reason="VolumeNotShared",
                hint="All nodes must mount the same volume: a claim that is ReadWriteMany.",
            )
        time.sleep(_RETRY_SECONDS)
        work.volume.attempts(
            work.config.stage, work.unit.key
        )  # an NFS client that opens a folder sees what is new in it


# --- to the end ------------------------------------------------------------------------------------------------------


def _watch(process: subprocess.Popen[bytes], link: Link) -> bool:
    """Wait for the end of the ranks or of the training; return whether it is finished.

    Raises:
        StageError: it failed elsewhere.
    """
    while process.poll() is None:
        for message in link.receive():
            if _heed(message):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_SECONDS)
                return True
        if link.gone:
            raise _error(lost_nodes(["node 0"]))
        time.sleep(_POLL_SECONDS)
    return False


def _ranks(settings: Settings, node: int) -> range:
    return range(node * settings.processes, (node + 1) * settings.processes)


def _end_of(code: int, exchange: Exchange, settings: Settings, node: int, *, no_memory: bool | None) -> NodeEnd:
    """Return how this node's ranks ended, by what they have left; `code` is torchrun's exit code."""
    ranks, codes = _ranks(settings, node), exchange.codes(node)
    exits = [left for left in exchange.exits() if left.rank in ranks]
    exits = with_aborted(exits, codes, exchange.folder.with_name("logs"))
    return NodeEnd(code, tuple(exits), codes, no_memory=no_memory)


def _answer(own: NodeEnd, link: Link, folder: Path, settings: Settings, node: int) -> None:
    """Tell node 0 how this node's ranks ended, and learn from it what ended them if they failed.

    Raises:
        StageError: they failed.
    """
    link.send(own.to_message())
    if own.well:
        return
    end = time.monotonic() + _VERDICT_SECONDS
    while not link.gone and time.monotonic() < end:
        for message in link.receive(_RETRY_SECONDS):
            if _heed(message):
                return
    tail = last_words(folder, node, _ranks(settings, node)[0])
    raise _error(root_cause(own.exits, own.codes, own.launcher, tail, no_memory=own.no_memory))


def _heed(message: dict[str, Any]) -> bool:
    """Return whether node 0 says that the training is finished.

    Raises:
        StageError: it says that the training failed.
    """
    if "end" not in message:
        return False
    failure = failure_of_message(message["end"])
    if failure is not None:
        raise _error(failure)
    return True


@contextmanager
def _told(link: Link) -> Iterator[None]:
    """If the block fails, tell node 0 why, before anything that takes longer."""
    try:
        yield
    except BaseException as error:
        link.send(NodeEnd(0, failure=classify(error)).to_message())
        raise


def _error(failure: Failure) -> StageError:
    return StageError(failure.code, failure.message, reason=failure.reason, hint=failure.hint)
