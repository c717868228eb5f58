"""Runs an Ollama server on a free loopback port for as long as something needs it, with models of its own.

    python hack/toolchain/serve_ollama.py --models DIR -- COMMAND ...

runs COMMAND with OLLAMA_HOST set to the server, ends the server afterwards and exits as COMMAND did. Which Ollama it
is says ``ollama.py``: where OLLAMA_HOST names a server that answers, that one is used and left running.

The tests use :func:`serve` with the pinned versions. A server and the llama-server processes that it starts are ended
in every way in which the one who started them can end, ``kill -9`` included.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from making import run_main, tell
from ollama import Running, version_at, which
from tied import tied

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_TAIL_LINES = 15


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str
    pid: int
    """Of the program given to :func:`serve`, and of its process group, which its llama-servers belong to."""
    log: Path


@contextmanager
def serve(program: Path, models: Path, *, wrap: Sequence[str] = ()) -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        program: the ``ollama`` to run.
        models: its OLLAMA_MODELS; made if need be. Its log is beside it, ``<models>.log``, and so is the HOME in which
            it keeps its key, ``<models>.home``.
        wrap: a command line that ends by running its last arguments, for a server in surroundings of its own.

    Raises:
        StageError: it does not start; the message holds the last lines of its log.
    """
    home, log = models.with_name(f"{models.name}.home"), models.with_name(f"{models.name}.log")
    for folder in (models, home):
        folder.mkdir(parents=True, exist_ok=True)
    environ = _environment(os.environ, models, home)
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied([*wrap, program, "serve"]),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, and no Ctrl-C from the terminal before its time
        )
    try:
        yield Server(_wait_until_ready(process, program, log), process.pid, log)
    finally:
        _stop(process)


def _environment(environ: Mapping[str, str], models: Path, home: Path) -> dict[str, str]:
    """Return the environ of a server: none of the settings that the user's own one has."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("OLLAMA_", "LLAMA_ARG_"))}
    return {
        **kept,
        "HOME": str(home.absolute()),
        "OLLAMA_MODELS": str(models.absolute()),
        "OLLAMA_HOST": "127.0.0.1:0",  # the kernel picks a free port, so that two servers never pick the same
        "OLLAMA_NO_CLOUD": "1",  # it would ask ollama.com what to recommend
        "OLLAMA_NUM_PARALLEL": "1",
    }


def _wait_until_ready(process: subprocess.Popen[bytes], program: Path, log: Path) -> str:
    """Return the server's address, which it tells in its log, once it answers there."""
    deadline = time.monotonic() + _START_SECONDS
    while _lives(process) and time.monotonic() < deadline:
        told = re.search(r"Listening on 127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8", errors="replace"))
        if told and version_at(url := f"http://127.0.0.1:{told[1]}"):
            return url
        time.sleep(0.05)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
    raise StageError(
        ExitCode.UNAVAILABLE,
        f"{program} serve {'does not answer' if _lives(process) else 'ended at once'}:\n{tail}",
        reason="OllamaNotStarted",
        hint=f"The whole log: {log}",
    )


def _lives(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether a process still runs, without forgetting it: until it is waited for, its group's number is ours."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _stop(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    if _lives(process):
        os.kill(process.pid, signal.SIGTERM)
    while _lives(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    # What it left behind, or itself. A server that was killed leaves its llama-servers.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Its llama-servers are not our children, so they can't be waited for: their group is asked for until it is empty.
    deadline = time.monotonic() + _STOP_SECONDS
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.01)


# --- as a program ----------------------------------------------------------------------------------------------------


def run_with(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command to its end and return its exit code; signals sent to this process go on to it.

    A signal from the terminal (Ctrl-C) reaches the whole foreground group by itself and is not sent twice.
    """
    forwarded = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    awaited = {*forwarded, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        child = subprocess.Popen(tied(command), env=environ)
        while child.poll() is None:
            caught = signal.sigwaitinfo(awaited)
            sent_by_a_process = caught.si_code <= 0  # SI_USER, SI_QUEUE, SI_TKILL; the kernel's own are above 0
            if caught.si_signo in forwarded and sent_by_a_process:
                child.send_signal(caught.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def main() -> int:
    """Run the command in the arguments beside a server."""
    parser = argparse.ArgumentParser(description="Run a command with an Ollama server at OLLAMA_HOST.")
    parser.add_argument(
        "--models", type=Path, required=True, metavar="DIR", help="where a server started here keeps its models"
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what to run (after --)")
    arguments = parser.parse_args()
    chosen = which()
    if isinstance(chosen, Running):
        tell(f"Ollama {chosen.version} at {chosen.url} (OLLAMA_HOST)")
        return run_with(arguments.command, {**os.environ, "OLLAMA_HOST": chosen.url})
    with serve(chosen.path, arguments.models) as server:
        tell(f"Ollama {chosen.version} at {server.url} ({chosen.path})")
        return run_with(arguments.command, {**os.environ, "OLLAMA_HOST": server.url})


if __name__ == "__main__":
    run_main(main)
