"""The stage program's side of a training: starts the ranks, listens to them, and answers for them.

It runs on node 0; on further nodes :mod:`.member` does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import InterruptedStage, Made, Progress, StageError, Work
from tunesmith_stages.train import batch_split, checkpoints, stalls
from tunesmith_stages.train.causes import root_cause
from tunesmith_stages.train.exchange import NO_RANK, Exchange, RankExit
from tunesmith_stages.train.memory_events import KernelKills
from tunesmith_stages.train.place import read_place
from tunesmith_stages.train.ranks import let_ranks_end, running_ranks, torchrun_log
from tunesmith_stages.train.settings import Settings, read_settings
from tunesmith_stages.train.stillness import Stillness
from tunesmith_stages.train.team import Team
from tunesmith_stages.train.tracking import Tracking, tracked
from tunesmith_stages.train.watchdog import with_aborted

_POLL_SECONDS = 0.1
_SETTLE_SECONDS = 10.0
"""How long the others are listened to once something has failed: who fails first need not know why."""
_TAIL_LINES = 15


def train(work: Work) -> Made:
    """Fine-tune the base on the prepared rows; leave the adapter or the model, and reference log-probabilities."""
    began = time.monotonic()
    settings = read_settings(work.params, work.runtime)
    place = read_place(settings.nodes, os.environ)
    for role in ("base", "prepared"):
        work.input(role)
    exchange = _empty_exchange(work)
    with (
        _drawn_if_it_fails(work.logs),
        tracked(work) as tracking,
        Team(place, work.unit.key, work.config.attempt) as team,
    ):
        while True:
            try:
                outcome = _train(work, settings, team, exchange, tracking)
                break
            except StageError as error:
                ended = stalls.bounded(work.volume.checkpoints(work.unit.key), error)
                exchange = _with_smaller_batches(work, settings, ended, exchange)
            finally:
                checkpoints.discard(work.volume.checkpoints(work.unit.key), work.config.attempt)
        took = time.monotonic() - began
    numbers = dict(outcome["numbers"])
    at_work = sum(numbers[name] for name in ("loadSeconds", "trainSeconds", "saveSeconds"))
    numbers["startSeconds"] = round(took - at_work, 3)
    _draw(work.logs)
    shutil.rmtree(exchange.folder)
    return Made(
        outputs=outcome["outputs"],
        numbers=numbers,
        tools=outcome["tools"],
        scratch=work.volume.checkpoints(work.unit.key),
    )


def _empty_exchange(work: Work) -> Exchange:
    exchange = Exchange(work.folder)
    shutil.rmtree(exchange.folder, ignore_errors=True)
    exchange.folder.mkdir()
    return exchange


def _with_smaller_batches(work: Work, settings: Settings, error: StageError, exchange: Exchange) -> Exchange:
    """If memory ran out and the job wants that, keep a smaller split of the batch; return the exchange to go on with.

    Raises:
        StageError: that is no way out.
    """
    words = None if settings.nodes > 1 else _reduce(work, settings, error, exchange)
    if words is None:
        raise error
    work.progress.note(words)
    return _empty_exchange(work)


def _next_time(work: Work, settings: Settings, error: StageError, exchange: Exchange) -> StageError:
    """If memory ran out on several nodes, keep a smaller split for the next attempt; return what ends this one.

    The others are told that, too: no node is to end as out of memory where the training goes on.
    """
    words = _reduce(work, settings, error, exchange)
    return error if words is None else StageError(ExitCode.TEMPORARY, words, reason="BatchReduced")


def _reduce(work: Work, settings: Settings, error: StageError, exchange: Exchange) -> str | None:
    """If memory ran out and the job wants that, keep a smaller split of the batch and say so; None: no way out.

    While the base is loaded and the optimizer is made no batch is there yet, and a smaller one saves nothing.
    """
    folder = work.volume.checkpoints(work.unit.key)
    kept = batch_split.read(folder)
    now = kept.apply(settings) if kept else settings
    split = batch_split.smaller(now)
    began = exchange.last_beat > 0
    if not settings.reduces or error.code is not ExitCode.OUT_OF_MEMORY or split is None or not began:
        return None
    batch_split.keep(folder, split)
    smaller = split.apply(settings)
    if now.micro_batch_size == 1:
        return (
            f"out of memory with 1 row at a time: going on with {smaller.eval_batch_size} at a time in the evaluation "
            f"instead of {now.eval_batch_size}"
        )
    return (
        f"out of memory with {now.micro_batch_size} rows at a time: going on with {smaller.micro_batch_size}, in "
        f"{smaller.accumulation} passes instead of {now.accumulation}"
    )


def _train(work: Work, settings: Settings, team: Team, exchange: Exchange, tracking: Tracking) -> dict[str, Any]:
    """Run the ranks, here and with the other nodes, and return what they came to.

    Raises:
        StageError: they failed, here or elsewhere.
    """
    with team.informed():
        meeting = team.gather(settings.nodes_timeout, work.progress.note)
        on = f" on each of {settings.nodes} nodes" if settings.nodes > 1 else ""
        work.progress.note(f"starting {settings.processes} process(es){on} on {'CPU' if settings.on_cpu else 'GPU'}")
    kills = KernelKills()
    with running_ranks(work.folder, settings, meeting) as process, team.informed():
        stillness = Stillness(exchange, settings.stall, (work.volume.checkpoints(work.unit.key), work.out))
        try:
            _relay(process, exchange, team, work.progress, stillness, tracking)
        except InterruptedStage:
            let_ranks_end(process, exchange, 0, settings.shutdown, lambda: _hear(exchange, team, work.progress))
            raise
        if process.poll() != 0:
            _settle(process, team)
        outcome = exchange.outcome()
        if process.poll() != 0 or outcome is None:
            error = _cause(exchange, process.poll() or 0, team, settings, work.folder, kills)
            raise _next_time(work, settings, error, exchange) if settings.nodes > 1 else error
        team.dismiss()
    return outcome


def _relay(
    process: subprocess.Popen[bytes],
    exchange: Exchange,
    team: Team,
    progress: Progress,
    stillness: Stillness,
    tracking: Tracking,
) -> None:
    """Pass on what rank 0 tells until the ranks have ended, or those of another node have failed.

    Raises:
        StageError: there is no sign of life.
    """
    ended = False
    while _hear(exchange, team, progress) and not ended:
        stillness.check(process)
        tracking.hear()
        time.sleep(_POLL_SECONDS)
        ended = process.poll() is not None  # and what they told before that is heard once more


def _hear(exchange: Exchange, team: Team, progress: Progress) -> bool:
    """Pass on what rank 0 has told; return whether the other nodes are well."""
    for event in exchange.listen():
        _pass_on(event, progress)
    team.listen()
    return not team.broken


def _pass_on(event: Mapping[str, Any], progress: Progress) -> None:
    if "done" in event:
        progress.count(event["done"], event["total"], "steps", event["metrics"], event.get("note", ""))
    else:
        progress.note(event["note"])


def _settle(process: subprocess.Popen[bytes], team: Team) -> None:
    """Wait until the ranks of every node have ended, each with what it knows, but not for long."""
    end = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < end and not (team.ended and process.poll() is not None):
        team.listen()
        time.sleep(_POLL_SECONDS)


def _cause(
    exchange: Exchange, code: int, team: Team, settings: Settings, folder: Path, kills: KernelKills
) -> StageError:
    codes = exchange.codes(0)
    exits = {left.rank: left for left in with_aborted(exchange.exits(), codes, folder / "logs")}
    elsewhere: dict[int, str] = {}
    starved: dict[int, bool | None] = {}
    for node, member in team.members.items():
        first = node * settings.processes
        elsewhere |= {rank: f"rank {rank} on {team.name(node)}" for rank in range(first, first + settings.processes)}
        if member.end:
            exits |= {left.rank: left for left in member.end.exits}
            codes |= member.end.codes
            starved |= dict.fromkeys(range(first, first + settings.processes), member.end.no_memory)
            code = code or member.end.launcher
    said = [RankExit(NO_RANK, 0.0, failure) for failure in team.failures()]
    said += sorted(exits.values(), key=lambda left: left.time)
    lost = [team.name(node) for node, member in team.members.items() if member.lost]
    told, own = last_words(folder, 0), kills.happened()
    failure = root_cause(said, codes, code, told, elsewhere=elsewhere, lost=lost, no_memory=own, starved=starved)
    return StageError(failure.code, failure.message, reason=failure.reason, hint=failure.hint)


def last_words(folder: Path, node: int, rank: int = 0) -> str:
    """Return the last lines that the first rank of a node wrote, or torchrun if the rank wrote nothing."""
    for path in (folder / "logs" / f"rank-{rank}.log", torchrun_log(folder, node)):
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines:
                return "\n".join(lines[-_TAIL_LINES:])
    return ""


@contextmanager
def _drawn_if_it_fails(logs: Path) -> Iterator[None]:
    """Draw the losses up to there if the block fails; whatever comes of that, it fails for its own reason."""
    try:
        yield
    except StageError:
        with suppress(Exception, InterruptedStage):  # asked to end meanwhile, it failed before all the same
            _draw(logs)
        raise


def _draw(logs: Path) -> None:
    from tunesmith_stages.train.curve import draw_losses

    draw_losses(logs / "metrics.jsonl", logs / "loss.png")
