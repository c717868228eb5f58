"""Runs llama-server on one model file, on a free loopback port, for as long as a ``with`` block lasts.

The stages ask it what the finished file really does: how it splits text into tokens and what it expects next. HTTP
interface: tools/server/README.md of llama.cpp.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.processors import usable_threads
from tunesmith_stages.program import StageError, die_with_parent
from tunesmith_stages.tools import LlamaCpp

_START_SECONDS = 600.0
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 1800.0
_THREADS = 4
_TAIL_LINES = 15


@dataclass(frozen=True)
class LlamaServer:
    """A running llama-server."""

    port: int
    key: str
    """Known to this server alone: the answer of another one on the same port is never taken for its."""

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Return the tokens of `text`, control tokens' text read as control tokens.

        `add_special` adds what the file says to add around a text (BOS, EOS).
        """
        answer = self._ask("/tokenize", {"content": text, "add_special": add_special, "parse_special": True})
        return [int(token) for token in answer["tokens"]]

    def next_token(self, ids: Sequence[int], count: int) -> dict[int, float]:
        """Return the `count` likeliest tokens after `ids` with their natural-log probabilities over the vocabulary."""
        answer = self._ask(
            "/completion",
            {
                "prompt": list(ids),
                "n_predict": 1,
                "temperature": 0,
                "n_probs": count,
                "post_sampling_probs": False,
                # What is sampled does not matter here, but it must be whole: of a token that holds only a part of a
                # UTF-8 character the server returns no probabilities. The bias leaves those untouched.
                "logit_bias": [[self.tokenize("a")[0], 1000.0]],
                "cache_prompt": False,
            },
        )
        top = answer["completion_probabilities"][0]["top_logprobs"]
        return {int(token["id"]): float(token["logprob"]) for token in top}

    def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        status, answer = _request(self.port, "POST", path, body, self.key)
        if status != 200:
            raise StageError(ExitCode.INTERNAL, f"llama-server answered {path} with {status}: {answer}")
        return answer


@contextlib.contextmanager
def llama_server(llama: LlamaCpp, model: Path, log_file: Path, *, context: int) -> Iterator[LlamaServer]:
    """Serve `model` with a context of `context` tokens while the block lasts.

    Raises:
        StageError: the model can't be loaded; the message holds the last lines of the server's log.
    """
    port, key = _free_port(), secrets.token_hex(16)
    argv = [
        *(llama.server, "--model", model, "--host", "127.0.0.1", "--port", port, "--api-key", key),
        *("--ctx-size", context, "--parallel", 1, "--threads", min(_THREADS, usable_threads())),
        *("--no-warmup", "--no-repack", "--offline", "--cache-ram", 0, "--device", "none"),
    ]
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [str(part) for part in argv],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - a stage program starts no threads of its own
        )
    try:
        _wait_until_healthy(process, port, model, log_file)
        yield LlamaServer(port, key)
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, model: Path, log_file: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, HTTPException):
            if _request(port, "GET", "/health")[0] == 200:
                return
        time.sleep(0.02)
    tail = "\n".join(log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
    raise StageError(
        ExitCode.GATE_FAILED, f"llama-server does not load {model.name}:\n{tail}", reason="ModelDoesNotLoad"
    )


def _request(
    port: int, method: str, path: str, body: Mapping[str, Any] | None = None, key: str = ""
) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
