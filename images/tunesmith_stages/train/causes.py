"""Finds what really ended a training. Pure.

When one rank ends, the others fail too, a moment later and for no fault of theirs: their collective operations lose a
peer. And torchrun's own exit code is 1 whatever happened. The root cause is the most specific thing known. Clocks of
machines differ, so that the earliest of two on different nodes is a guess.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from tunesmith_stages.contract import FAILURE_CLASSES, ExitCode, Failure
from tunesmith_stages.program import StageError
from tunesmith_stages.reasons import recognised
from tunesmith_stages.reasons.disk import FILE_UNREADABLE
from tunesmith_stages.reasons.gpu import CONNECTION_LOST, NCCL_FAILED, TIMED_OUT
from tunesmith_stages.reasons.row import Reason, Where
from tunesmith_stages.train.exchange import RankExit

_KILLED_READER = "is killed by signal: Killed"
"""What PyTorch says of a process that reads rows for a rank (`dataloaderWorkers`)."""

_MAY_PASS = ExitCode.TEMPORARY

_NOBODY: Mapping[int, str] = MappingProxyType({})
_UNTOLD: Mapping[int, bool | None] = MappingProxyType({})

_ASKED_TO_END = (signal.SIGTERM, signal.SIGINT)


def root_cause(
    exits: Sequence[RankExit],
    codes: Mapping[int, int],
    launcher: int,
    tail: str,
    *,
    elsewhere: Mapping[int, str] = _NOBODY,
    lost: Sequence[str] = (),
    no_memory: bool | None = None,
    starved: Mapping[int, bool | None] = _UNTOLD,
) -> Failure:
    """Return the failure to report.

    Args:
        exits: what ranks said before they ended, earliest first.
        codes: exit codes of the ranks that failed first, as torchrun saw them; negative: ended by that signal, which
            may be torchrun's own SIGTERM.
        launcher: exit code of the launcher: a failed rank's.
        tail: last lines of the log, for a failure of which nothing else is known.
        elsewhere: what to call the ranks of other nodes.
        lost: names of nodes that are gone without a word.
        no_memory: whether the kernel ended processes of this node for want of memory; None: nobody can tell.
        starved: the same of the nodes of ranks elsewhere.
    """
    exits = [_placed(left, elsewhere.get(left.rank)) for left in exits]
    for left in exits:
        if left.failure.code is not ExitCode.INTERNAL:
            return left.failure
    killed = _what_was_killed(exits, codes, elsewhere, no_memory, starved)
    if killed is not None and killed.code is not ExitCode.INTERRUPTED:
        return killed
    if lost:
        return lost_nodes(lost)
    # A rank may have been stopped by torchrun, because another had failed: what that one said comes before.
    for failure in (_what_was_said(exits, elsewhere), killed, _what_others_did(exits, CONNECTION_LOST)):
        if failure is not None:
            return failure
    if launcher < 0:
        return _killed("torchrun", -launcher, no_memory)
    if launcher in FAILURE_CLASSES and launcher != ExitCode.INTERNAL:  # a full disk: no rank could leave its reason
        return Failure.from_exit_code(launcher)
    known = recognised(Where.LOG, text=tail) or FAILURE_CLASSES[ExitCode.INTERNAL]
    return Failure.of(known, f"the ranks ended without saying why (exit code {launcher}):\n{tail}")


def _what_was_said(exits: Sequence[RankExit], elsewhere: Mapping[int, str]) -> Failure | None:
    """Return the most specific thing that ranks said: an error, or that they waited; None: they just lost others."""
    for left in exits:
        if _of_others(left) is None:
            return left.failure
    waited = [left for left in exits if _of_others(left) is TIMED_OUT]
    return _what_others_did(exits, NCCL_FAILED) or (_stalled(waited, elsewhere) if waited else None)


def _of_others(left: RankExit) -> Reason | None:
    """Return what a rank tells of others; None: it tells of itself."""
    return recognised(Where.PEERS, text=left.failure.message)


def _what_others_did(exits: Sequence[RankExit], row: Reason) -> Failure | None:
    """Return the first thing that ranks tell of others for the reason `row`; None: nothing of that kind."""
    return next((Failure.of(row, left.failure.message, _MAY_PASS) for left in exits if _of_others(left) is row), None)


def _stalled(waited: Sequence[RankExit], elsewhere: Mapping[int, str]) -> Failure:
    """Return what it means that ranks gave up waiting, and nothing else is known."""
    who = " and ".join(elsewhere.get(left.rank, f"rank {left.rank}") for left in waited)
    return StageError(
        ExitCode.TEMPORARY,
        f"{who} waited for other ranks for longer than `ddpTimeoutSeconds`: a process hangs, or cannot be reached "
        f"({waited[0].failure.message.strip()})",
        reason=TIMED_OUT.name,
        hint="The logs rank-0.log and so on end with the last words of each process. It is tried again, from its "
        "newest checkpoint. If single steps or saves take so long, raise `ddpTimeoutSeconds`.",
    ).failure()


def _what_was_killed(
    exits: Sequence[RankExit],
    codes: Mapping[int, int],
    elsewhere: Mapping[int, str],
    no_memory: bool | None,
    starved: Mapping[int, bool | None],
) -> Failure | None:
    """Return what it means that a signal has ended something; None: none has."""
    killed = _who_was_killed(exits, codes)
    if killed is None:
        return None
    who, rank, number = killed
    where = elsewhere.get(rank, f"rank {rank}")
    return _killed(who + where, number, starved.get(rank) if rank in elsewhere else no_memory)


def _who_was_killed(exits: Sequence[RankExit], codes: Mapping[int, int]) -> tuple[str, int, int] | None:
    """Return what was killed, of which rank, and by which signal; None: nothing was."""
    for left in exits:
        if _KILLED_READER in left.failure.message:
            return "a process that reads rows for ", left.rank, signal.SIGKILL
    silent = {rank: code for rank, code in codes.items() if rank not in {left.rank for left in exits}}
    killed = {rank: -code for rank, code in silent.items() if code < 0}
    if not killed:
        return None
    rank = min(killed, key=lambda rank: (killed[rank] in _ASKED_TO_END, rank))  # torchrun asks the others to end
    return "", rank, killed[rank]


def _placed(left: RankExit, where: str | None) -> RankExit:
    """Return what a rank said, with where that was if it was on another node."""
    if where is None:
        return left
    return replace(left, failure=replace(left.failure, message=f"{where}: {left.failure.message}"))


def lost_nodes(nodes: Sequence[str]) -> Failure:
    """Return what it means that nodes are gone without a word."""
    return StageError(
        ExitCode.TEMPORARY,
        f"{' and '.join(nodes)} {'was' if len(nodes) == 1 else 'were'} lost: the program there ended without a word, "
        "or its machine can no longer be reached",
        reason="NodeLost",
        hint="See what became of its pod (out of memory, evicted, machine gone). Run it again: it goes on from the "
        "last checkpoint.",
    ).failure()


def _killed(who: str, number: int, no_memory: bool | None) -> Failure:
    name = signal.Signals(number).name
    if number == signal.SIGKILL and no_memory is False:
        return StageError(
            ExitCode.TEMPORARY,
            f"{who} was killed ({name}), and not by the kernel for want of memory: it counts no such case",
            reason="RankKilled",
            hint="Somebody or something on the machine ended it. Run it again: it goes on from the last checkpoint.",
        ).failure()
    if number == signal.SIGKILL:
        return StageError(
            ExitCode.OUT_OF_MEMORY,
            f"{who} was killed ({name}); that is what the kernel does to a process when memory runs out",
            hint="Use smaller batches, shorter sequences, a higher ZeRO stage or gradient checkpointing, or give it "
            "more memory. If somebody killed it on purpose, run it again: it goes on from the last checkpoint.",
        ).failure()
    if number in _ASKED_TO_END:
        return StageError(ExitCode.INTERRUPTED, f"{who} was stopped by {name}").failure()
    if number == signal.SIGBUS:
        return Failure.of(FILE_UNREADABLE, f"{who} crashed ({name}): a file that it had mapped could not be read")
    return StageError(ExitCode.INTERNAL, f"{who} crashed ({name})", reason="RankCrashed").failure()
