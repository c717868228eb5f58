"""The stage program's side of a training: starts the ranks, listens to them, and answers for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunesmith_stages.program import Made, Progress, StageError, Work
from tunesmith_stages.train.causes import root_cause
from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.settings import Settings, read_settings, threads_per_rank

_POLL_SECONDS = 0.1
_SHUTDOWN_SECONDS = 20
"""How long ranks may take to end after SIGTERM before torchrun kills them."""
_TAIL_LINES = 15


def train(work: Work) -> Made:
    """Fine-tune the base on the prepared rows; leave the adapter or the model, and reference log-probabilities."""
    began = time.monotonic()
    settings = read_settings(work.params, work.runtime)
    for role in ("base", "prepared"):
        work.input(role)
    exchange = Exchange(work.folder)
    shutil.rmtree(exchange.folder, ignore_errors=True)
    exchange.folder.mkdir()
    work.progress.note(f"starting {settings.processes} process(es) on {'CPU' if settings.on_cpu else 'GPU'}")
    with _torchrun(work, settings) as process:
        _relay(process, exchange, work.progress)
    outcome = exchange.outcome()
    if process.returncode != 0 or outcome is None:
        raise _cause(exchange, process.returncode, work.logs)
    numbers = dict(outcome["numbers"])
    at_work = sum(numbers[name] for name in ("loadSeconds", "trainSeconds", "saveSeconds"))
    numbers["startSeconds"] = round(time.monotonic() - began - at_work, 3)
    _draw(work.logs)
    shutil.rmtree(exchange.folder)
    return Made(
        outputs=outcome["outputs"],
        numbers=numbers,
        tools=outcome["tools"],
        scratch=work.volume.checkpoints(work.unit.key),
    )


@contextmanager
def _torchrun(work: Work, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """Run torchrun; whatever ends the block early ends all ranks with it."""
    with (work.logs / "torchrun.log").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tunesmith_stages.train.launch",
                str(os.getpid()),
                str(work.folder),
                str(settings.processes),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(settings),
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone, which then ends the ranks
        )
    try:
        yield process
    finally:
        _end(process)


def _environment(settings: Settings) -> dict[str, str]:
    environ = {
        "OMP_NUM_THREADS": str(threads_per_rank(len(os.sched_getaffinity(0)), os.getloadavg()[0], settings.processes)),
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_SHUTDOWN_SECONDS),
        # Nothing is compiled here, but DeepSpeed decorates functions with torch.compile, and that imports the whole
        # compiler: 5 seconds in every rank.
        "TORCHDYNAMO_DISABLE": "1",
    }
    if settings.on_cpu:
        environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", GLOO_SOCKET_IFNAME="lo")
    return environ


def _relay(process: subprocess.Popen[bytes], exchange: Exchange, progress: Progress) -> None:
    """Pass on what rank 0 tells until the ranks have ended."""
    for events in exchange.listen():
        for event in events:
            _pass_on(event, progress)
        if process.poll() is not None and not events:
            return
        time.sleep(_POLL_SECONDS)


def _pass_on(event: Mapping[str, Any], progress: Progress) -> None:
    if "note" in event:
        progress.note(event["note"])
    else:
        progress.count(event["done"], event["total"], "steps", event["metrics"])


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_SHUTDOWN_SECONDS + 5)
    process.kill()  # the ranks go with it: see lifeline
    process.wait()


def _cause(exchange: Exchange, code: int, logs: Path) -> StageError:
    tail = ""
    for name in ("rank-0.log", "torchrun.log"):
        if (logs / name).exists() and not tail:
            tail = "\n".join((logs / name).read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
    failure = root_cause(exchange.exits(), exchange.codes(), code, tail)
    return StageError(failure.code, failure.message, reason=failure.reason, hint=failure.hint)


def _draw(logs: Path) -> None:
    from tunesmith_stages.train.curve import draw_losses

    draw_losses(logs / "metrics.jsonl", logs / "loss.png")
