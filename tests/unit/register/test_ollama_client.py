from __future__ import annotations

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_refusal import meaning
from tunesmith_stages.program import StageError


@pytest.mark.parametrize("address", ["", "127.0.0.1:11434", "localhost", "ftp://h:1", "http://", "http:///x"])
def test_addresses_that_lead_nowhere_are_refused(address: str) -> None:
    """An address without scheme or host is a mistake in the job or its surroundings, and is shown."""
    with pytest.raises(StageError) as caught:
        Ollama(address)
    assert caught.value.code is ExitCode.BAD_CONFIG
    assert repr(address) in caught.value.message


@pytest.mark.parametrize(
    ("status", "text", "code", "reason"),
    [
        (500, "write /m/blobs/sha256-1: no space left on device", ExitCode.NO_SPACE, "OllamaNoSpace"),
        (400, "invalid model name", ExitCode.BAD_CONFIG, "InvalidModelName"),
        (400, 'digest mismatch, expected "a", got "b"', ExitCode.BAD_DATA, "DamagedModelFile"),
        (500, "unexpected EOF", ExitCode.BAD_DATA, "DamagedModelFile"),
        (500, "cudaMalloc failed: out of memory", ExitCode.OUT_OF_MEMORY, "OllamaOutOfMemory"),
        (403, "", ExitCode.NO_PERMISSION, "OllamaForbidden"),
        (503, "server busy, please try again", ExitCode.UNAVAILABLE, "OllamaBusy"),
        (400, "LoRA adapters are no longer supported", ExitCode.GATE_FAILED, "OllamaRefused"),
    ],
)
def test_what_a_server_complains_of_gets_its_class(status: int, text: str, code: ExitCode, reason: str) -> None:
    """Each complaint of a server that means something to a person has a reason of its own, the rest a common one."""
    assert meaning(status, text)[:2] == (code, reason)
