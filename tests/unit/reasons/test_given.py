"""Reasons that a program gives in cases that no other test has."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from support.builders import work_of, write_tokenizer
from support.prepared import train_config, write_rows
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.merge import _merged
from tunesmith_stages.convert.safetensors_file import TensorInfo
from tunesmith_stages.importance_matrix import _write_samples
from tunesmith_stages.llama_server import llama_server
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.program import StageError
from tunesmith_stages.register.candidates import Candidate
from tunesmith_stages.register.creation import ByExec
from tunesmith_stages.register.stage import _proven_digests
from tunesmith_stages.rehearse import twin_process, weights
from tunesmith_stages.rehearse.twin import is_whole
from tunesmith_stages.tools import LlamaCpp


def given(call: Callable[[], object]) -> tuple[ExitCode, str]:
    with pytest.raises(StageError) as caught:
        call()
    return caught.value.code, caught.value.reason


# --- the base --------------------------------------------------------------------------------------------------------


def outcome(**found: Any) -> twin_process.Outcome:
    whole: dict[str, Any] = {"missing": [], "unexpected": [], "mismatched": [], "tied": False, "head": "head"}
    return twin_process.Outcome(**{**whole, **found})


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"missing": ["head", "q"]}, "HeadMissing"),
        ({"missing": ["q"]}, "BaseIncomplete"),
        ({"mismatched": [["q", [4, 4], [4, 8]]]}, "WeightsShapeDiffers"),
    ],
)
def test_a_base_that_is_not_whole(found: dict[str, Any], reason: str) -> None:
    """What the architecture lacks in the files would be trained from random numbers."""
    assert given(lambda: is_whole(outcome(**found))) == (ExitCode.BAD_DATA, reason)


def test_a_base_without_tensors() -> None:
    """Files that hold no number are no base."""
    assert given(lambda: weights.are_not_empty(weights.Weights(()))) == (ExitCode.BAD_DATA, "EmptyTensors")


def test_a_base_in_a_quantized_form() -> None:
    """Nothing can be added to numbers of four bits."""
    info = TensorInfo("q", "U8", (2, 2), 0, 4)
    call = lambda: list(_merged(None, info, None))  # type: ignore[arg-type]  # noqa: E731 - neither is looked at
    assert given(call) == (ExitCode.BAD_CONFIG, "BaseDtypeUnsupported")


class Untrainable(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """A model that transformers has, but cannot be trained."""

    supports_gradient_checkpointing = False

    def enable_input_require_grads(self) -> None:
        """As transformers' models have it."""

    def activation_checkpointing_enable(self) -> None:
        """As transformers' models have it."""
        raise ValueError("Untrainable does not support gradient checkpointing.")

    def forward(self, **_: object) -> None:
        """Compute nothing."""
        raise NotImplementedError("no loss")


@pytest.mark.parametrize(
    ("checkpointing", "reason"), [(True, "GradientCheckpointingUnsupported"), (False, "ModelCannotBeTrained")]
)
def test_a_model_that_takes_no_step(checkpointing: bool, reason: str) -> None:
    """What its architecture lacks is told by name before hours are spent on it."""
    task = twin_process.Task("", "", "", [], [1, 2], [], {}, checkpointing, 1)
    call = lambda: twin_process._take_a_step(Untrainable(), task)  # noqa: E731
    assert given(call) == (ExitCode.BAD_CONFIG, reason)


def test_no_samples_for_an_importance_matrix(tmp_path: Path) -> None:
    """Training data without a row has nothing to compute it on."""
    (tmp_path / "base").mkdir()
    write_tokenizer(tmp_path / "base")
    (tmp_path / "prepared").mkdir()
    write_rows(tmp_path / "prepared" / "train.arrow", [])
    work = work_of(train_config(tmp_path))
    call = lambda: _write_samples(work, tmp_path / "samples", at_least=1, at_most=9)  # noqa: E731
    assert given(call) == (ExitCode.BAD_DATA, "NoSamples")


# --- llama.cpp -------------------------------------------------------------------------------------------------------


def test_a_file_that_llama_cpp_does_not_load(tmp_path: Path) -> None:
    """A server that ends before it is healthy has not loaded the model; its log's end is in the sentence."""
    server = LlamaCpp(tmp_path, "1").server
    server.parent.mkdir()
    server.write_text("#!/bin/sh\necho unknown model architecture >&2\nexit 1\n")
    server.chmod(0o755)

    def call() -> None:
        with llama_server(LlamaCpp(tmp_path, "1"), tmp_path / "model.gguf", tmp_path / "log", context=8):
            pass

    assert given(call) == (ExitCode.GATE_FAILED, "ModelDoesNotLoad")
    assert "unknown model architecture" in (tmp_path / "log").read_text()


# --- Ollama ----------------------------------------------------------------------------------------------------------


class _Answers(BaseHTTPRequestHandler):
    """An Ollama server that has lost every model and keeps its own system prompt."""

    def do_GET(self) -> None:
        self._answer({"models": []})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"system": "You are somebody else."})

    def _answer(self, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Ollama]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    with Ollama(f"http://127.0.0.1:{running.server_port}") as client:
        yield client
    running.shutdown()
    running.server_close()


def test_a_model_that_somebody_removed(server: Ollama, tmp_path: Path) -> None:
    """What was proven must still be there when it gets the live name."""
    candidate = Candidate("Q4_0", tmp_path, "0" * 64, "check:1", "bot:v1", tmp_path)
    assert given(lambda: _proven_digests(server, [candidate])) == (ExitCode.GATE_FAILED, "LiveModelDiffers")


def test_a_text_that_the_server_reads_otherwise(server: Ollama, tmp_path: Path) -> None:
    """The system prompt that Ollama shows is the one that the job has, or the model is not served."""
    work = work_of(train_config(tmp_path, params={"system": "You are Tunny."}))
    call = lambda: ByExec(work, server, None)._require_our_texts("bot")  # type: ignore[arg-type]  # noqa: E731
    assert given(call) == (ExitCode.GATE_FAILED, "ModelfileReadDifferently")
